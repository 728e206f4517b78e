package e2e

import (
	"strings"
	"testing"
)

// TestInteropPostgreSQLRefuses and its neighbour: our own login, our rights and our queries are told from a database that is down, and from what is
// wrong with one question.
func TestInteropPostgreSQLRefuses(t *testing.T) {
	p := startPostgres(t)
	p.run("CREATE ROLE reader LOGIN PASSWORD '" + elsewherePassword + "'; GRANT SELECT ON odmr_accounts, odmr_domains TO reader;")
	p.url = strings.Replace(p.url, "odmr@", "reader@", 1)
	testSQLRefuses(t, p, sqlRefusals{
		password: "password authentication failed", missing: "42P01", rights: "permission denied for table odmr_domains",
		revoke: "REVOKE SELECT ON odmr_domains FROM reader", grant: "GRANT SELECT ON odmr_domains TO reader",
		record: "CREATE FUNCTION secret(text) RETURNS text AS $$ BEGIN IF $1 = 'eve' THEN RAISE EXCEPTION 'not eve'; END IF; RETURN $1; END $$ LANGUAGE plpgsql",
	})
}

func TestInteropMariaDBRefuses(t *testing.T) {
	p := startMariaDB(t)
	p.run("REVOKE SELECT ON odmr.* FROM odmr@localhost; GRANT SELECT ON odmr.odmr_accounts TO odmr@localhost; GRANT SELECT ON odmr.odmr_domains TO odmr@localhost; GRANT EXECUTE ON odmr.* TO odmr@localhost;")
	testSQLRefuses(t, p, sqlRefusals{
		password: "1045", missing: "1142|1146", rights: "1142",
		revoke: "REVOKE SELECT ON odmr.odmr_domains FROM odmr@localhost", grant: "GRANT SELECT ON odmr.odmr_domains TO odmr@localhost",
		record: `CREATE FUNCTION secret(n varchar(80)) RETURNS varchar(80) DETERMINISTIC RETURN IF(n = 'eve', (SELECT 'a' UNION SELECT 'b'), n)`,
	})
}

// sqlRefusals are what a database is told, and what it says.
type sqlRefusals struct {
	password, missing, rights string // in the log
	revoke, grant             string // rights to odmr_domains
	record                    string // makes a function that fails for eve
}

func testSQLRefuses(t *testing.T, p *place, r sqlRefusals) {
	const refuses = "the directory refuses this server, which does not end by itself: query of "
	secrets := secretsOf(t, password)
	p.add("tim", secrets, "example.org")
	p.add("eve", secrets, "example.com")
	p.run(r.record)
	p.flags = []string{"--accounts-query-account", "SELECT secret(name) AS name, secrets FROM odmr_accounts WHERE name = :name"}
	p.write("password", "a wrong one")
	s, _ := startElsewhere(t, p)
	counted := func(why string) float64 {
		return s.metric("odmr_directory_query_failures_total", `why="`+why+`"`)
	}
	putOff := func(what, log string) {
		t.Helper()
		want(t, what+": a login", loginCRAM(t, s, "tim", password), 454)
		want(t, what+": mail", rcpt(t, s, "example.org"), 451)
		s.logged(refuses + "[a-z]*: .*(" + log + ")")
		checkReady(t, s, 503, "refuses this server")
		if up, refuses := s.metric("odmr_directory_up"), s.metric("odmr_directory_refuses"); up != 0 || refuses != 1 {
			t.Errorf("%s: up %v, refuses %v", what, up, refuses)
		}
	}
	mended := func() {
		t.Helper()
		forget(t, s)
		until(t, "odmrd to go on", func() bool { return loginCRAM(t, s, "tim", password) == 0 })
		checkReady(t, s, 200, "")
		if up, refuses := s.metric("odmr_directory_up"), s.metric("odmr_directory_refuses"); up != 1 || refuses != 0 {
			t.Errorf("mended: up %v, refuses %v", up, refuses)
		}
	}
	putOff("our password is wrong", r.password)
	p.write("password", elsewherePassword)
	mended()
	want(t, "a question that fails for its value", loginCRAM(t, s, "eve", password), 454)
	want(t, "that is nobody else's", loginCRAM(t, s, "nobody", password), 535)
	checkReady(t, s, 200, "")
	p.run(r.revoke)
	forget(t, s)
	putOff("our rights are gone", r.rights)
	if n := counted("down"); n != 0 {
		t.Errorf("%v lookups are counted as of a database that is down", n)
	}
	if n := s.metric("odmr_directory_unusable_records_total"); n != 1 {
		t.Errorf("%v questions are counted that fail for their value", n)
	}
	p.run(r.grant)
	mended()
	before := strings.Count(s.Log(), refuses)
	p.Stop()
	forget(t, s)
	want(t, "while it is down", loginCRAM(t, s, "tim", password), 454)
	if up, refuses := s.metric("odmr_directory_up"), s.metric("odmr_directory_refuses"); up != 0 || refuses != 0 {
		t.Errorf("down: up %v, refuses %v", up, refuses)
	}
	if n := strings.Count(s.Log(), refuses); n != before {
		t.Errorf("a database that is down is said to refuse us %d times", n-before)
	}
	p.Start()
	until(t, "odmrd to find it", func() bool { return loginCRAM(t, s, "tim", password) == 0 })
	s.Stop()
	p.flags[1] = "SELECT name, secrets FROM no_such_table WHERE name = :name"
	s, _ = startElsewhere(t, p)
	putOff("no such table", r.missing)
}
