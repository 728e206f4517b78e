package config

import (
	"bytes"
	"strings"
	"testing"
)

// TestNoPasswordIsShown looks for the password of a URL in everything that is printed.
func TestNoPasswordIsShown(t *testing.T) {
	for url, want := range map[string]string{
		"postgres://odmr:s3cret@db.example/odmr?sslmode=disable":    "postgres://odmr:xxxxx@db.example/odmr?sslmode=disable",
		"postgres://odmr:s3@cret@db.example/odmr":                   "postgres://odmr:xxxxx@db.example/odmr",
		"postgres://odmr:s3/cret@db.example/odmr":                   "postgres://odmr:xxxxx@db.example/odmr",
		"postgres://odmr:a?s3cret@db.example/odmr":                  "postgres://xxxxx@db.example/odmr",
		"postgres:///odmr?host=/run&user=odmr&password=s3cret&a=b":  "postgres:///odmr?host=/run&user=odmr&password=xxxxx&a=b",
		"mysql://odmr:s3cret@/odmr?socket=/run/mysqld/mysqld.sock":  "mysql://odmr:xxxxx@/odmr?socket=/run/mysqld/mysqld.sock",
		"ldap://cn=odmr:s3cret@ldap.example/dc=isp":                 "ldap://cn=odmr:xxxxx@ldap.example/dc=isp",
		"postgres://odmr@db.example:5432/odmr?sslrootcert=/a@b.pem": "postgres://odmr@db.example:5432/odmr?sslrootcert=/a@b.pem",
		"sqlite:/var/lib/odmr/accounts.db":                          "sqlite:/var/lib/odmr/accounts.db",
		"sqlite:/srv/odmr@isp/accounts.db?password=a":               "sqlite:/srv/odmr@isp/accounts.db?password=a",
		"/etc/odmr/a:b@c": "/etc/odmr/a:b@c",
		"ldapi://%2Frun%2Fslapd%2Fldapi/dc=isp,dc=example??one?(&(a=b)(c=d))": "ldapi://%2Frun%2Fslapd%2Fldapi/dc=isp,dc=example??one?(&(a=b)(c=d))",
	} {
		cfg := load(t, source("", nil, "--accounts="+url))
		var b bytes.Buffer
		if err := WriteYAML(&b, cfg); err != nil {
			t.Fatal(err)
		}
		if cfg.Accounts.String() != want || strings.Contains(b.String(), "s3") || string(cfg.Accounts) != url {
			t.Errorf("%s is shown as %s", url, cfg.Accounts)
		}
		text := problems(t, source("", nil, "--accounts="+url, "--accounts-timeout=x", "--accounts-password-file=f", "--accounts-bind=x", "--accounts-query-owners=x"))
		if strings.Contains(text, "s3") {
			t.Errorf("%s is quoted: %s", url, text)
		}
	}
}
