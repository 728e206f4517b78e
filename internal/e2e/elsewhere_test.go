package e2e

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// elsewhere is a database or directory service of a test's own: its files in a temporary directory, its socket there, run by a user
// without privileges, stopped by its pid.
type elsewhere struct {
	t    *testing.T
	dir  string
	argv []string
	// environ is added to the surroundings of the server and its clients.
	environ []string
	stop    syscall.Signal // makes it end at once, in order or not
	// answers reports whether it does.
	answers func() bool
	cmd     *exec.Cmd
	done    chan struct{}
}

// elsewherePassword is the password of the user odmr there.
const elsewherePassword = "k3ep-0ut"

// newElsewhere makes the directory.
func newElsewhere(t *testing.T) *elsewhere {
	t.Helper()
	dir, err := os.MkdirTemp("", "odmr-") // short: the path of a socket has 107 octets
	if err != nil {
		t.Fatal(err)
	}
	e := &elsewhere{t: t, dir: dir, stop: syscall.SIGTERM}
	t.Cleanup(func() {
		e.Stop()
		os.RemoveAll(dir)
	})
	e.write("password", elsewherePassword+"\n")
	e.give(".")
	return e
}

func (e *elsewhere) path(name string) string { return filepath.Join(e.dir, name) }

func (e *elsewhere) write(name, text string) {
	e.t.Helper()
	if err := os.WriteFile(e.path(name), []byte(text), 0o600); err != nil {
		e.t.Fatal(err)
	}
	e.give(name)
}

// copy writes what is in file.
func (e *elsewhere) copy(name, file string) {
	e.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		e.t.Fatal(err)
	}
	e.write(name, string(text))
}

// nobody is the user of servers that refuse to run as root; nil where the tests are not root.
func nobody(t *testing.T) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// give makes a file the server's.
func (e *elsewhere) give(name string) {
	e.t.Helper()
	if c := nobody(e.t); c != nil {
		if err := os.Chown(e.path(name), int(c.Uid), int(c.Gid)); err != nil {
			e.t.Fatal(err)
		}
	}
}

// command is a program as the server's user.
func (e *elsewhere) command(argv ...string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = e.dir
	cmd.Env = append(os.Environ(), "HOME="+e.dir, "PGPASSWORD="+elsewherePassword, "LC_ALL=C")
	cmd.Env = append(cmd.Env, e.environ...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: nobody(e.t), Pdeathsig: syscall.SIGKILL}
	return cmd
}

// do runs a program to its end.
func (e *elsewhere) do(stdin string, argv ...string) {
	e.t.Helper()
	cmd := e.command(argv...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		e.t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}

// Start starts the server and waits until it answers.
func (e *elsewhere) Start() {
	e.t.Helper()
	log, err := os.OpenFile(e.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		e.t.Fatal(err)
	}
	defer log.Close()
	cmd, done := e.command(e.argv...), make(chan struct{})
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.cmd, e.done = cmd, done
	go func() { _ = cmd.Wait(); close(done) }()
	until(e.t, e.argv[0]+" to answer", func() bool {
		select {
		case <-done:
			text, _ := os.ReadFile(e.path("log"))
			e.t.Fatalf("%s ended: %s", e.argv[0], tail(string(text), 4000))
		default:
		}
		return e.answers()
	})
}

// Stop ends the server, if it runs, and all its processes.
func (e *elsewhere) Stop() {
	if e.cmd == nil {
		return
	}
	for _, pid := range e.family()[1:] { // for servers that leave their children behind when they end at once
		defer syscall.Kill(pid, syscall.SIGKILL)
	}
	_ = e.cmd.Process.Signal(e.stop)
	select {
	case <-e.done:
	case <-time.After(patience):
		_ = e.cmd.Process.Kill()
		<-e.done
	}
	e.cmd = nil
}

// family is the server's pid and those of its children.
func (e *elsewhere) family() []int {
	pids := []int{e.cmd.Process.Pid}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(text), ") ") // behind the name: state, parent
		if words := strings.Fields(rest); len(words) > 1 && words[1] == strconv.Itoa(pids[0]) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// Hang makes every process of the server stand still, until the function that it returns is called.
func (e *elsewhere) Hang() (resume func()) {
	e.t.Helper()
	pids := e.family()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			e.t.Fatal(err)
		}
	}
	until(e.t, "every thread to stand still", func() bool {
		for _, pid := range pids {
			threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
			for _, file := range threads {
				text, err := os.ReadFile(file)
				if _, rest, _ := strings.Cut(string(text), ") "); err == nil && !strings.HasPrefix(rest, "T") {
					return false
				}
			}
		}
		return true
	})
	return func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
}

// place is a server that accounts are in, and what a test does with it.
type place struct {
	*elsewhere
	url   string   // for --accounts
	flags []string // of odmrd, besides
	// add enters the account of README.md's example with those secrets and domains.
	add func(name string, secrets []string, domains ...string)
	// run has a database carry out text.
	run func(text string)
	// clear enters an account whose password is in clear.
	clear func(name, password, domain string)
	// list adds recipients to the account's list, which odmrd asks for with the flags in listed.
	list   func(name string, addresses ...string)
	listed []string
	ldif   func(text string) // enters what is there in LDIF
}

// postgresProgram finds a program of PostgreSQL's server, which Debian keeps out of the way.
func postgresProgram(t *testing.T, name string) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) > 0 {
		return found[len(found)-1]
	}
	return needProgram(t, name)
}

func startPostgres(t *testing.T) *place {
	initdb, postgres, psql := postgresProgram(t, "initdb"), postgresProgram(t, "postgres"), needProgram(t, "psql")
	e := newElsewhere(t)
	e.do("", initdb, "-D", e.path("data"), "-U", "odmr", "-A", "scram-sha-256", "--pwfile", e.path("password"), "--no-sync", "-E", "UTF8", "--locale=C")
	e.argv = []string{postgres, "-D", e.path("data"), "-k", e.dir, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB"}
	e.stop = syscall.SIGQUIT
	sql := func(database string) []string {
		return []string{psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", e.dir, "-U", "odmr", database}
	}
	e.answers = func() bool { return e.command(append(sql("postgres"), "-c", "SELECT 1")...).Run() == nil }
	e.Start()
	e.do("CREATE DATABASE odmr", sql("postgres")...)
	schema, err := runProgram("", "odmrctl", "account", "schema", "postgres")
	if err != nil {
		t.Fatal(err, schema)
	}
	e.do(schema, sql("odmr")...)
	p := inSQL(e, func(text string) { e.do(text, sql("odmr")...) })
	p.url = "postgres://odmr@/odmr?host=" + url.QueryEscape(e.dir)
	return p
}

func startMariaDB(t *testing.T) *place {
	install, mariadbd, mariadb := needProgram(t, "mariadb-install-db"), needProgram(t, "mariadbd"), needProgram(t, "mariadb")
	e := newElsewhere(t)
	e.do("", install, "--no-defaults", "--datadir="+e.path("data"), "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve",
		"--innodb-log-file-size=4M", "--innodb-flush-method=nosync")
	e.argv = []string{mariadbd, "--no-defaults", "--datadir=" + e.path("data"), "--socket=" + e.path("socket"), "--pid-file=" + e.path("pid"), "--skip-networking",
		"--innodb-buffer-pool-size=16M", "--innodb-log-file-size=4M", "--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync"}
	e.stop = syscall.SIGKILL
	sql := []string{mariadb, "--no-defaults", "--user=root", "--socket=" + e.path("socket"), "--default-character-set=utf8mb4"}
	e.answers = func() bool { return e.command(append(sql, "--execute=SELECT 1")...).Run() == nil }
	e.Start()
	schema, err := runProgram("", "odmrctl", "account", "schema", "mysql")
	if err != nil {
		t.Fatal(err, schema)
	}
	e.do("CREATE DATABASE odmr; CREATE USER odmr@localhost IDENTIFIED BY '"+elsewherePassword+"'; GRANT SELECT ON odmr.* TO odmr@localhost; USE odmr;"+schema, sql...)
	p := inSQL(e, func(text string) { e.do("USE odmr;"+text, sql...) })
	p.url = "mysql://odmr@/odmr?socket=" + url.QueryEscape(e.path("socket"))
	return p
}

// inSQL is a database that run runs text in.
func inSQL(e *elsewhere, run func(text string)) *place {
	return &place{
		elsewhere: e, run: run,
		add: func(name string, secrets []string, domains ...string) {
			e.t.Helper()
			rows := make([]string, len(domains))
			for i, d := range domains {
				rows[i] = fmt.Sprintf("('%s', '%s')", d, name)
			}
			run(adapt(e.t, readmeBlock(e.t, "INSERT INTO odmr_accounts"), "cram-md5 INNER OUTER; scram-sha-256 ITERATIONS SALT STORED SERVER", strings.Join(secrets, "; "),
				"('example.org', 'tim'), ('example.com', 'tim')", strings.Join(rows, ", "), "VALUES ('tim'", "VALUES ('"+name+"'"))
		},
		listed: []string{"--accounts-query-recipients", "SELECT recipient FROM odmr_recipients WHERE account = :name"},
		list: func(name string, addresses ...string) {
			e.t.Helper()
			for _, a := range addresses {
				run(fmt.Sprintf("INSERT INTO odmr_recipients (recipient, account) VALUES ('%s', '%s');", a, name))
			}
		},
		clear: func(name, password, domain string) {
			e.t.Helper()
			run(fmt.Sprintf("INSERT INTO odmr_accounts (name, password) VALUES ('%s', '%s'); INSERT INTO odmr_domains VALUES ('%s', '%[1]s');", name, password, domain))
		},
	}
}

// slapdConf is a directory with the accounts below ou=customers, which nobody but cn=odmr may read.
const slapdConf = `include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include DIR/odmr.schema
pidfile DIR/pid
modulepath /usr/lib/ldap
moduleload back_mdb
TLS
database mdb
suffix "dc=isp,dc=example"
rootdn "cn=admin,dc=isp,dc=example"
rootpw PASSWORD
directory DIR/data
index uid,odmrDomain,objectClass eq
dbnosync
access to * by dn.exact="cn=odmr,dc=isp,dc=example" read by anonymous auth
`

const slapdTree = `dn: dc=isp,dc=example
objectClass: dcObject
objectClass: organization
dc: isp
o: ISP

dn: ou=customers,dc=isp,dc=example
objectClass: organizationalUnit
ou: customers

dn: cn=odmr,dc=isp,dc=example
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: odmr
userPassword: PASSWORD

`

// startSlapd starts slapd on a socket, and on addresses with TLS if cert is given.
func startSlapd(t *testing.T, addrs, cert, key string) *place {
	slapd, ldapadd := needProgram(t, "slapd"), needProgram(t, "ldapadd")
	e := newElsewhere(t)
	schema, err := runProgram("", "odmrctl", "account", "schema", "ldap")
	if err != nil {
		t.Fatal(err, schema)
	}
	e.write("odmr.schema", schema)
	security := ""
	if cert != "" {
		e.copy("cert.pem", cert)
		e.copy("key.pem", key)
		security = "TLSCertificateFile DIR/cert.pem\nTLSCertificateKeyFile DIR/key.pem\n"
	}
	conf := strings.Replace(slapdConf, "TLS\n", security, 1)
	e.write("slapd.conf", strings.NewReplacer("DIR", e.dir, "PASSWORD", elsewherePassword).Replace(conf))
	if err := os.Mkdir(e.path("data"), 0o700); err != nil {
		t.Fatal(err)
	}
	e.give("data")
	socket := "ldapi://" + url.QueryEscape(e.path("ldapi"))
	e.argv = []string{slapd, "-f", e.path("slapd.conf"), "-h", strings.TrimSpace(socket + " " + addrs), "-d", "none"}
	admin := []string{ldapadd, "-x", "-H", socket, "-D", "cn=admin,dc=isp,dc=example", "-y", e.path("secret")}
	e.write("secret", elsewherePassword) // ldapadd takes the end of line for a part of it
	e.answers = func() bool { return e.command(needProgram(t, "ldapwhoami"), "-x", "-H", socket).Run() == nil }
	e.Start()
	e.do(strings.ReplaceAll(slapdTree, "PASSWORD", elsewherePassword), admin...)
	p := &place{elsewhere: e}
	p.add = func(name string, secrets []string, domains ...string) {
		t.Helper()
		e.do(adapt(t, readmeBlock(t, "objectClass: odmrAccount"), "odmrSecret: cram-md5 INNER OUTER\n", "", "odmrSecret: scram-sha-256 ITERATIONS SALT STORED SERVER\n",
			"odmrSecret: "+strings.Join(secrets, "\nodmrSecret: ")+"\n", "uid=tim", "uid="+name, "uid: tim", "uid: "+name,
			"odmrDomain: example.org\nodmrDomain: example.com", "odmrDomain: "+strings.Join(domains, "\nodmrDomain: ")), admin...)
	}
	p.ldif = func(text string) { t.Helper(); e.do(text, admin...) }
	p.clear = func(name, password, domain string) {
		t.Helper()
		e.do(fmt.Sprintf("dn: uid=%s,ou=customers,dc=isp,dc=example\nobjectClass: account\nobjectClass: odmrAccount\nuid: %[1]s\nodmrDomain: %s\nuserPassword: %s\n", name, domain, password), admin...)
	}
	p.listed = []string{"--accounts-attributes", "recipient=odmrRecipient"}
	p.list = func(name string, addresses ...string) {
		t.Helper()
		e.do(fmt.Sprintf("dn: uid=%s,ou=customers,dc=isp,dc=example\nchangetype: modify\nadd: odmrRecipient\nodmrRecipient: %s\n", name, strings.Join(addresses, "\nodmrRecipient: ")), admin...)
	}
	p.url = socket + "/ou=customers,dc=isp,dc=example??sub?(objectClass=odmrAccount)"
	p.flags = []string{"--accounts-bind", "cn=odmr,dc=isp,dc=example",
		"--accounts-attributes", "password=userPassword"}
	return p
}
