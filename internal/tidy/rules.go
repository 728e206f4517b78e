package tidy

import "regexp"

// Lengths in lines. A test's table is data, so that test functions may be longer.
const (
	maxFileLines     = 800
	maxFuncLines     = 70
	maxTestFuncLines = 150
	maxParams        = 5
)

// suites are packages of tests for others to run: not in _test files, and tests all the same.
var suites = []string{"queue/conformance"}

// topLevel is all that may stand at the root, besides dot-files and what .gitignore names there.
var topLevel = []string{"bench", "cmd", "codec", "engine", "go.mod", "go.sum", "internal", "Makefile", "queue", "README.md"}

// vagueNames say nothing about what a file or folder is for.
var vagueNames = []string{"utils", "util", "helpers", "helper", "common", "misc", "shared", "base"}

// plantedTrees are the violations on purpose that this package's test reads.
const plantedTrees = "internal/tidy/testdata"

// machinePath finds paths that exist on the machine of whoever wrote the line and nowhere else.
var machinePath = regexp.MustCompile(`(?:^|[^\w.~-])(/(?:wor` + `k|roo` + `t|hom` + `e/\w+|User` + `s/\w+)/)`)

// module is the module's path: imports that begin with it are ours.
const module = "odmr"

// room is a row of the import rules. It applies to the folder and those below that have no
// row of their own, and to files that are not tests: tests may import any room but cmd and bench.
type room struct {
	dir string
	// may lists the rooms that it may import, a trailing /... including those below. nil: all.
	may []string
	// pure rooms import the standard library only, and of that nothing with a clock, a
	// lock, a socket, a disk or a random number in it; they start no goroutine.
	pure bool
}

// rooms is the import table. An arrow never runs back up: queue does not know sessions,
// sessions do not know gnet, codec knows nobody.
var rooms = []room{
	{dir: "codec", may: []string{}, pure: true},
	{dir: "internal/mail", may: []string{}, pure: true},
	{dir: "engine/session", may: []string{"codec", "internal/mail"}, pure: true},
	{dir: "engine", may: []string{"engine/session", "codec", "queue", "internal/mail", "internal/account", "internal/recipients", "internal/processors"}},
	{dir: "queue", may: []string{"internal/mail"}},
	{dir: "queue/pebblestore", may: []string{"queue", "internal/mail"}},
	{dir: "queue/pebblestore/crashfs", may: []string{}}, // the simulator's disk
	// What it knows of recipients: pure but for its lock, which event loops share.
	{dir: "internal/recipients", may: []string{}},
	{dir: "internal/notes", may: []string{}}, // what outlives a restart beside the queue
	{dir: "internal/units", may: []string{}, pure: true},
	{dir: "internal/processors", may: []string{}},
	{dir: "internal/account", may: []string{"internal/mail", "internal/units", "internal/recipients", "internal/processors"}},
	// Drivers are heavy, and account is known everywhere: they stay out of it.
	{dir: "internal/account/cache", may: []string{"internal/account"}},
	{dir: "internal/account/sqldir", may: []string{"internal/account", "internal/account/cache", "internal/trust"}},
	{dir: "internal/account/ldapdir", may: []string{"internal/account", "internal/account/cache", "internal/trust"}},
	// Password files, CAs and what may be told to whom: the same for databases, directories, smarthost and customers.
	{dir: "internal/trust", may: []string{}},
	{dir: "internal/config", may: []string{"internal/mail", "internal/account", "internal/units", "internal/trust", "engine/session"}}, // defaults, names of mechanisms
	{dir: "internal/metrics", may: []string{"engine", "queue"}},                                                                        // engine.Observer, queue.Counts
	{dir: "internal/admin", may: []string{"codec", "queue", "internal/mail"}},                                                          // what comes in is in wire form
	{dir: "internal/client", may: []string{"codec", "internal/mail"}},
	{dir: "internal/dsn", may: []string{"codec", "internal/mail"}},
	{dir: "internal/sim", may: []string{}}, // tests and nothing else
	{dir: "internal/certtest", may: []string{}},
	{dir: "internal/freeport", may: []string{}},  // for tests, and for the peers that bench starts
	{dir: "internal/clocktest", may: []string{}}, // the time of tests
	{dir: "internal/bounce", may: []string{"codec", "queue", "internal/mail", "internal/account", "internal/dsn"}},
	{dir: "internal/outbound", may: []string{"codec", "queue", "internal/mail", "internal/trust"}},
	{dir: "internal/tidy", may: []string{}},
	// It reads what others wrote, and decides nothing; the fields on top of an export begin with those of a Maildir of ours.
	{dir: "internal/imports", may: []string{"codec", "internal/mail", "internal/client"}},
	// make run: a program in all but name. It starts the built commands and acts as a customer.
	{dir: "internal/demo", may: []string{"internal/client", "internal/listening", "internal/mail", "codec"}},
	{dir: "internal/listening", may: []string{}},
	{dir: "internal", may: []string{"internal/...", "codec", "queue"}},
	{dir: "internal/postfix", may: []string{}}, // started by bench and by tests
	{dir: "bench", may: []string{"codec", "internal/client", "internal/freeport", "internal/listening", "internal/postfix"}},
	{dir: "cmd", may: nil},
}

// owners are the only rooms that may import a library, tests included: it can be exchanged as
// long as nobody else knows it. The key is a prefix of import paths.
var owners = map[string][]string{
	"github.com/panjf2000/gnet":      {"engine"},
	"github.com/cockroachdb/pebble":  {"queue/pebblestore"},
	"github.com/alecthomas/kong":     {"internal/config", "cmd"},
	"github.com/prometheus":          {"internal/metrics", "internal/admin"},
	"github.com/emersion/go-sasl":    {"internal/account", "internal/client", "internal/outbound", "internal/e2e"},
	"github.com/emersion/go-smtp":    {"internal/outbound", "internal/e2e"}, // there as a stranger that is sent reports
	"github.com/fsnotify/fsnotify":   {"internal/account"},
	"github.com/emersion/go-message": {"internal/dsn"},
	"github.com/mjl-/mox":            {"internal/dsn"}, // its parser judges our reports in tests
	"github.com/jackc/pgx":           {"internal/account/sqldir"},
	"github.com/go-sql-driver":       {"internal/account/sqldir"},
	"modernc.org/sqlite":             {"internal/account/sqldir", "internal/e2e"},
	"github.com/go-ldap":             {"internal/account/ldapdir"},
}

// impure are the packages of the standard library that a pure room must not import.
var impure = []string{"context", "crypto/rand", "crypto/tls", "io/fs", "io/ioutil", "log", "log/slog", "math/rand", "math/rand/v2",
	"net", "os", "os/exec", "os/signal", "path/filepath", "runtime", "sync", "sync/atomic", "syscall", "testing", "unsafe"}

// clockRooms may read the clock; everywhere else time is an argument. cmd and engine by
// design; bench measures; certificates are for a time; admin has deadlines on its sockets, which are times of day;
// client and demo stand outside the server, on the other end of its sockets.
var clockRooms = []string{"engine", "cmd", "bench", "internal/admin", "internal/client", "internal/demo", "internal/certtest"}

// clockCalls read the clock.
var clockCalls = []string{"Now", "Since", "Until"}

// benchCommand is the one program that the load harness is for.
const benchCommand = "cmd/odmrbench"

// testOnly are the rooms that exist for tests: nothing else may import them.
var testOnly = []string{"internal/sim", "internal/certtest", "queue/pebblestore/crashfs"}
