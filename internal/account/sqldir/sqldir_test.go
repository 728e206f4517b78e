package sqldir

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"

	"odmr/internal/account"
	"odmr/internal/account/cache"
)

func TestCompile(t *testing.T) {
	for _, c := range []struct {
		text, param string
		values      []string
		postgres    string
		sqlite      string
		args        int
	}{
		{"SELECT a FROM t WHERE n = :name", "name", []string{"x"}, "SELECT a FROM t WHERE n = $1", "SELECT a FROM t WHERE n = ?", 1},
		{"SELECT a FROM t WHERE n = :name OR m=:name", "name", []string{"x"}, "SELECT a FROM t WHERE n = $1 OR m=$2", "SELECT a FROM t WHERE n = ? OR m=?", 2},
		{"SELECT ':name', \":name\", `:name` -- :name\n, x::text /* :name */ WHERE n = :name::varchar", "name", []string{"x"},
			"SELECT ':name', \":name\", `:name` -- :name\n, x::text /* :name */ WHERE n = $1::varchar", "", 1},
		{"d IN (:domains)", "domains", []string{"a", "b"}, "d IN ($1,$2,$3,$4)", "d IN (?,?,?,?)", 4},
		{"d IN (:domains)", "domains", []string{"a"}, "d IN ($1)", "d IN (?)", 1},
		{"'it''s' = :name", "name", []string{"x"}, "'it''s' = $1", "'it''s' = ?", 1},
		{"a[1:2] = :name", "name", []string{"x"}, "a[1:2] = $1", "", 1},
	} {
		for d, want := range map[*dialect]string{&postgres: c.postgres, &sqliteFile: c.sqlite} {
			q, err := compile(c.text, c.param, d)
			if err != nil {
				if want != "" && !strings.Contains(c.text, "[1:2]") {
					t.Errorf("%s: %v", c.text, err)
				}
				continue
			}
			if text, args := q.with(c.values); want != "" && (text != want || len(args) != c.args) {
				t.Errorf("%s became %s %v", c.text, text, args)
			}
		}
	}
	for text, want := range map[string]string{
		"":                             "is empty",
		"SELECT 1":                     "does not ask for :name",
		"SELECT ':name'":               "does not ask for :name",
		"SELECT 1 WHERE n = :domain":   "unknown parameter :domain; there is :name",
		"SELECT 1 WHERE n = 'x :name ": "does not ask for :name",
	} {
		if _, err := compile(text, "name", &postgres); err == nil || err.Error() != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// book is an SQLite file with accounts.
type book struct {
	t    *testing.T
	path string
	db   *sql.DB
}

func newBook(t *testing.T) *book {
	t.Helper()
	b := &book{t: t, path: filepath.Join(t.TempDir(), "a b?%41.db")}
	var err error
	if b.db, err = sql.Open("sqlite", "file:"+(&url.URL{Path: b.path}).EscapedPath()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.db.Close() })
	schema, err := Schema("sqlite")
	if err != nil {
		t.Fatal(err)
	}
	b.exec(schema)
	return b
}

func (b *book) exec(text string, args ...any) {
	b.t.Helper()
	if _, err := b.db.Exec(text, args...); err != nil {
		b.t.Fatal(err)
	}
}

// add enters an account with a password in stored form.
func (b *book) add(name, password, settings string, domains ...string) {
	b.t.Helper()
	a, err := new(account.Account).WithPassword(password)
	if err != nil {
		b.t.Fatal(err)
	}
	b.exec("INSERT INTO odmr_accounts (name, secrets, settings) VALUES (?, ?, ?)", name, string(a.AppendSecrets(nil)), settings)
	for _, d := range domains {
		b.exec("INSERT INTO odmr_domains VALUES (?, ?)", d, name)
	}
}

func (b *book) open(q Queries) *Source {
	b.t.Helper()
	s, err := Open(Config{URL: "sqlite:" + b.path, Queries: q, Connections: 4, Keys: account.NewDeriver(make([]byte, account.SecretSize), 10)})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { s.Close() })
	return s
}

func TestAccount(t *testing.T) {
	b := newBook(t)
	b.add("tim", "open sesame", "own-hostname; retention 5d\nbounce off", "b.example", "a.example", "xn--bcher-kva.example")
	b.exec("INSERT INTO odmr_accounts (name, password) VALUES ('eve', 'in clear; one')")
	b.exec("INSERT INTO odmr_domains VALUES ('e.example', 'eve')")
	s := b.open(Defaults)
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, err := s.Account(t.Context(), "tim")
	if err != nil || !slices.Equal(a.Domains, []string{"a.example", "b.example", "xn--bcher-kva.example"}) || !a.OwnHostname ||
		a.Policy.Bounce != account.SwitchedOff || *a.CRAMMD5 != *account.DeriveCRAMMD5("open sesame") || a.SCRAMSHA256 == nil {
		t.Errorf("%+v, %v", a, err)
	}
	e, err := s.Account(t.Context(), "eve")
	if err != nil || *e.CRAMMD5 != *account.DeriveCRAMMD5("in clear; one") || e.SCRAMSHA256 == nil {
		t.Fatalf("%+v, %v", e, err)
	}
	if again, err := s.Account(t.Context(), "eve"); err != nil || again.SCRAMSHA256 != e.SCRAMSHA256 {
		t.Error("the keys of a password that is the same were derived again")
	}
	b.exec("UPDATE odmr_accounts SET password = 'another one' WHERE name = 'eve'")
	if again, err := s.Account(t.Context(), "eve"); err != nil || again.SCRAMSHA256.StoredKey == e.SCRAMSHA256.StoredKey {
		t.Error("the keys of a password that was changed were kept")
	}
	owners, err := s.Owners(t.Context(), []string{"e.example", "a.example", "no.example", "A.EXAMPLE"})
	if err != nil || len(owners) != 2 || owners["e.example"] != "eve" || owners["a.example"] != "tim" {
		t.Error(owners, err)
	}
	if s.Identities() {
		t.Error("identities without a query")
	}
}

// What peers send is a value and nothing else.
func TestNamesAreNoSQL(t *testing.T) {
	b := newBook(t)
	b.add("tim", "open sesame", "", "a.example")
	s := b.open(Defaults)
	for _, name := range []string{"' OR '1'='1", "tim' --", "tim'; DROP TABLE odmr_accounts; --", `" OR ""="`, "%", "tim%", ":name", "?", "$1", `\'; --`, "tim\x00", "TIM", "tim "} {
		if a, err := s.Account(t.Context(), name); !errors.Is(err, account.ErrUnknown) {
			t.Errorf("%q: %v, %v", name, a, err)
		}
		if owners, err := s.Owners(t.Context(), []string{name, "a.example"}); err != nil || len(owners) != 1 {
			t.Errorf("%q: %v, %v", name, owners, err)
		}
	}
	if _, err := s.Account(t.Context(), "tim"); err != nil {
		t.Error(err)
	}
}

func TestManyDomains(t *testing.T) {
	b := newBook(t)
	var domains []string
	for i := range 700 {
		domains = append(domains, fmt.Sprintf("d%d.example", i))
	}
	b.add("tim", "open sesame", "", domains...)
	s := b.open(Defaults)
	if a, err := s.Account(t.Context(), "tim"); err != nil || len(a.Domains) != 700 {
		t.Error(err)
	}
	if owners, err := s.Owners(t.Context(), domains); err != nil || len(owners) != 700 {
		t.Error(len(owners), err)
	}
}

// An ISP's own tables, with names of its own and rows of a join.
func TestOwnTables(t *testing.T) {
	b := newBook(t)
	b.exec(`CREATE TABLE customer (id INTEGER, login TEXT, pw TEXT, host INTEGER); CREATE TABLE zone (owner INTEGER, name TEXT, live INTEGER); CREATE TABLE opt (owner INTEGER, t TEXT);
		INSERT INTO customer VALUES (7, 'tim', 'open sesame', 1), (8, 'eve', 'other secret', 0);
		INSERT INTO zone VALUES (7, 'a.example', 1), (7, 'b.example', 1), (7, 'old.example', 0), (8, 'e.example', 1);
		INSERT INTO opt VALUES (7, 'retention 5d'), (7, 'linger 10m');
		CREATE TABLE line (owner INTEGER, what TEXT); INSERT INTO line VALUES (7, 'network 192.0.2.32/29'), (8, 'cert-cn Example GmbH')`)
	s := b.open(Queries{
		Account:    "SELECT login AS Name, pw AS password, CASE WHEN host THEN 'own-hostname;' ELSE '' END || coalesce(t, '') AS settings FROM customer LEFT JOIN opt ON owner = id WHERE login = :name COLLATE nocase",
		Domains:    "SELECT z.name FROM zone z JOIN customer ON id = owner WHERE live AND login = :name",
		Owners:     "SELECT z.name, login FROM zone z JOIN customer ON id = owner WHERE live AND z.name IN (:domains)",
		Identities: "SELECT what, login FROM line JOIN customer ON id = owner WHERE what IN (:identities)",
	})
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, err := s.Account(t.Context(), "tim")
	if err != nil || len(a.Domains) != 2 || !a.OwnHostname || len(a.Policy.Settings()) != 2 {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, err := s.Account(t.Context(), "TIM"); !errors.Is(err, account.ErrUnknown) {
		t.Error("case was folded:", err)
	}
	holders, err := s.Holders(t.Context(), []string{"network 192.0.2.32/29", "cert-cn Example GmbH", "cert-cn None"})
	if err != nil || len(holders) != 2 || holders["network 192.0.2.32/29"] != "tim" || !s.Identities() {
		t.Error(holders, err)
	}
	b.exec("INSERT INTO zone VALUES (8, 'a.example', 1)")
	if _, err := s.Owners(t.Context(), []string{"a.example"}); !errors.Is(err, account.ErrRecord) {
		t.Error("a domain of two:", err)
	}
}

func TestRecordsThatCannotBeUsed(t *testing.T) {
	b := newBook(t)
	s := b.open(Defaults)
	const secret = "c2VjcmV0"
	for name, columns := range map[string][3]string{
		"domain": {"", "", "not a domain"}, "one label": {"", "", "localhost"}, "none": {"", "", ""},
		"cram": {"cram-md5 " + secret + " " + secret, "", "d1.example"}, "scram": {"scram-sha-256 1 a b c", "", "d2.example"},
		"twice":   {"{CRAM-MD5}" + strings.Repeat("00", 32) + "\n{cram-md5}" + strings.Repeat("01", 32), "", "d3.example"},
		"setting": {"", "colour blue", "d4.example"}, "value": {"", "retention never", "d5.example"},
	} {
		b.exec("INSERT INTO odmr_accounts (name, secrets, settings) VALUES (?, ?, ?)", name, columns[0], columns[1])
		if columns[2] != "" {
			b.exec("INSERT INTO odmr_domains VALUES (?, ?)", columns[2], name)
		}
		if _, err := s.Account(t.Context(), name); !errors.Is(err, account.ErrRecord) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.exec("INSERT INTO odmr_accounts (name, secrets) VALUES ('other', '{SSHA}c2VjcmV0')")
	b.exec("INSERT INTO odmr_domains VALUES ('o.example', 'other')")
	if a, err := s.Account(t.Context(), "other"); err != nil || a.CRAMMD5 != nil || a.SCRAMSHA256 != nil {
		t.Errorf("a secret that is of no use: %+v, %v", a, err)
	}
}

func TestCheckSaysWhatIsWrong(t *testing.T) {
	b := newBook(t)
	for want, q := range map[string]Queries{
		"no such table: nowhere":                           {Account: "SELECT name, secrets FROM nowhere WHERE name = :name", Domains: Defaults.Domains, Owners: Defaults.Owners},
		`column "passwrd" is none of`:                      {Account: "SELECT name, secrets, password AS passwrd FROM odmr_accounts WHERE name = :name", Domains: Defaults.Domains, Owners: Defaults.Owners},
		"there must be columns name, and secrets":          {Account: "SELECT name FROM odmr_accounts WHERE name = :name", Domains: Defaults.Domains, Owners: Defaults.Owners},
		"query of domains: 2 columns instead of 1":         {Account: Defaults.Account, Domains: "SELECT * FROM odmr_domains WHERE account = :name", Owners: Defaults.Owners},
		"query of owners: 1 columns instead of 2":          {Account: Defaults.Account, Domains: Defaults.Domains, Owners: "SELECT account FROM odmr_domains WHERE domain IN (:domains)"},
		"query of identities: no such table: odmr_nothing": {Account: Defaults.Account, Domains: Defaults.Domains, Owners: Defaults.Owners, Identities: "SELECT a, b FROM odmr_nothing WHERE a IN (:identities)"},
	} {
		err := b.open(q).Check(t.Context())
		if err == nil || errors.Is(err, account.ErrRecord) || !strings.Contains(strings.ReplaceAll(err.Error(), "SQL logic error: ", ""), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := b.open(Queries{Account: Defaults.Account, Domains: Defaults.Domains, Owners: Defaults.Owners, Identities: "SELECT identity, account FROM odmr_identities WHERE identity IN (:identities)"}).Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSQLiteIsNotWrittenToNorMade(t *testing.T) {
	b := newBook(t)
	b.exec("CREATE TABLE x (name TEXT, secrets TEXT)")
	q := Defaults
	q.Account = "INSERT INTO x VALUES (:name, '') RETURNING name, secrets"
	if err := b.open(q).Check(t.Context()); err == nil {
		t.Error("the file was written to")
	}
	missing := &book{t: t, path: filepath.Join(t.TempDir(), "missing")}
	if err := missing.open(Defaults).Check(t.Context()); err == nil {
		t.Error("there is no file")
	}
	if _, err := os.Stat(missing.path); err == nil {
		t.Error("it was made")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.open(Defaults).Account(ctx, "tim"); err == nil {
		t.Error("asked although the context had ended")
	}
}

func TestURLs(t *testing.T) {
	for _, bad := range []string{"postgres://u:s3cret@h:port/d", "mysql://u:s3cret@/", "mysql://u:s3cret@/d", "mysql:u:s3cret@tcp(h)/d", "mysql://u:s3cret@h/d?tls=maybe", "sqlite:", "oracle://x"} {
		s, err := Open(Config{URL: bad, Queries: Defaults, Connections: 1})
		if err == nil {
			s.Close()
			t.Errorf("%s was taken", bad)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("quotes the password: %v", err)
		}
	}
	for _, good := range []string{"postgres://u@h/d?sslmode=verify-full", "postgres://u@127.0.0.1/d?sslmode=disable", "postgresql:///d?host=/run", "mysql://u:p@h/d?tls=true", "mysql://u@[::1]:3307/d?tls=skip-verify", "mariadb://u@/d?socket=/run/x", "sqlite:///x"} {
		s, err := Open(Config{URL: good, Queries: Defaults, Connections: 1})
		if err != nil {
			t.Errorf("%s: %v", good, err)
			continue
		}
		s.Close()
	}
}

// TestMeaningsOfErrors: an error that a value can bring about must not make the database count as down, and one about us is told from both.
func TestMeaningsOfErrors(t *testing.T) {
	for _, c := range []struct {
		d    *dialect
		err  error
		want error
	}{
		{&postgres, &pgconn.PgError{Code: "22021"}, account.ErrRecord}, {&postgres, &pgconn.PgError{Code: "P0001"}, account.ErrRecord},
		{&postgres, &pgconn.PgError{Code: "28P01"}, cache.ErrRefused}, {&postgres, &pgconn.PgError{Code: "3D000"}, cache.ErrRefused},
		{&postgres, &pgconn.PgError{Code: "42501"}, cache.ErrRefused}, {&postgres, &pgconn.PgError{Code: "42P01"}, cache.ErrRefused},
		{&postgres, &pgconn.PgError{Code: "57P01"}, nil}, {&postgres, &pgconn.PgError{Code: "53300"}, nil}, {&postgres, &pgconn.PgError{Code: "40001"}, nil},
		{&postgres, &pgconn.PgError{Code: "28"}, nil}, {&postgres, context.DeadlineExceeded, nil},
		{&mariadb, &mysql.MySQLError{Number: 1267}, account.ErrRecord}, {&mariadb, &mysql.MySQLError{Number: 1045}, cache.ErrRefused},
		{&mariadb, &mysql.MySQLError{Number: 1142}, cache.ErrRefused}, {&mariadb, &mysql.MySQLError{Number: 1146}, cache.ErrRefused},
		{&mariadb, &mysql.MySQLError{Number: 1040}, nil}, {&mariadb, &mysql.MySQLError{Number: 1213}, nil},
		{&mariadb, mysql.ErrInvalidConn, nil}, {&mariadb, mysql.ErrOldPassword, cache.ErrRefused},
	} {
		s := &Source{dialect: c.d}
		got := s.failed(&query{what: "account"}, fmt.Errorf("x: %w", c.err))
		for _, kind := range []error{account.ErrRecord, cache.ErrRefused} {
			if errors.Is(got, kind) != (kind == c.want) {
				t.Errorf("%v: %v", c.err, got)
			}
		}
		if !errors.Is(got, c.err) {
			t.Errorf("%v is lost in %v", c.err, got)
		}
	}
}

// TestSQLiteRefusals: a table that there is not, and a file that is none of SQLite's, are mended by somebody; a file that is missing may be
// on its way.
func TestSQLiteRefusals(t *testing.T) {
	b := newBook(t)
	s := b.open(Defaults)
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.exec("DROP TABLE odmr_domains")
	if err := s.Check(t.Context()); !errors.Is(err, cache.ErrRefused) {
		t.Errorf("no such table: %v", err)
	}
	one := Defaults
	one.Domains = "SELECT name, name FROM odmr_accounts WHERE name = :name"
	if err := b.open(one).Check(t.Context()); !errors.Is(err, cache.ErrRefused) {
		t.Errorf("a column too many: %v", err)
	}
	b.path = filepath.Join(t.TempDir(), "other")
	if err := b.open(Defaults).Check(t.Context()); err == nil || errors.Is(err, cache.ErrRefused) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(b.path, []byte(strings.Repeat("no database\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.open(Defaults).Check(t.Context()); !errors.Is(err, cache.ErrRefused) {
		t.Errorf("another file: %v", err)
	}
}
