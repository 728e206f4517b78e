package config

import (
	"bytes"
	"errors"
	"net/netip"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"odmr/internal/account"
)

// source gives args, an environment and one file x.yaml.
func source(file string, env map[string]string, args ...string) Source {
	disk := fstest.MapFS{"x.yaml": {Data: []byte(file)}}
	return Source{
		Args:     args,
		Getenv:   func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		ReadFile: disk.ReadFile,
		Hostname: func() (string, error) { return "mx.isp.example", nil },
	}
}

func load(t *testing.T, src Source) *Config {
	t.Helper()
	cfg, err := Load(src)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return cfg
}

// problems loads a configuration that must be refused and returns its problems as text lines.
func problems(t *testing.T, src Source) string {
	t.Helper()
	_, err := Load(src)
	var p Problems
	if !errors.As(err, &p) {
		t.Fatalf("Load: %v, want Problems", err)
	}
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

func TestDefaults(t *testing.T) {
	cfg := load(t, source("", nil))
	if cfg.Hostname != "mx.isp.example" || cfg.MaxMessageSize != 50<<20 || cfg.DataDoneTimeout != 10*time.Minute ||
		!reflect.DeepEqual(cfg.ODMRListen, []Listen{":366"}) || cfg.LogFormat != "json" {
		t.Errorf("unexpected defaults: %+v", cfg)
	}
	want := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	if !reflect.DeepEqual(cfg.TrustedNetworks, want) {
		t.Errorf("TrustedNetworks = %v, want %v", cfg.TrustedNetworks, want)
	}
}

func TestPrecedence(t *testing.T) {
	file := "max-recipients: 201\nlog-level: warn\nsmtp-listen: ['127.0.0.1:1', '[::1]:1']\n"
	env := map[string]string{"ODMRD_MAX_RECIPIENTS": "202", "ODMRD_LMTP_LISTEN": "127.0.0.1:2,127.0.0.1:3"}
	for _, c := range []struct {
		name string
		args []string
		env  map[string]string
		want int
	}{
		{"default", nil, nil, 1000},
		{"file", []string{"--config", "x.yaml"}, nil, 201},
		{"environment over file", []string{"--config=x.yaml"}, env, 202},
		{"flag over environment", []string{"--config=x.yaml", "--max-recipients", "203"}, env, 203},
		{"flag over file", []string{"--max-recipients=203", "--config=x.yaml"}, nil, 203},
	} {
		if cfg := load(t, source(file, c.env, c.args...)); cfg.MaxRecipients != c.want {
			t.Errorf("%s: MaxRecipients = %d, want %d", c.name, cfg.MaxRecipients, c.want)
		}
	}
	cfg := load(t, source(file, env, "--config=x.yaml"))
	if !reflect.DeepEqual(cfg.SMTPListen, []Listen{"127.0.0.1:1", "[::1]:1"}) ||
		!reflect.DeepEqual(cfg.LMTPListen, []Listen{"127.0.0.1:2", "127.0.0.1:3"}) {
		t.Errorf("lists: smtp %v, lmtp %v", cfg.SMTPListen, cfg.LMTPListen)
	}
}

func TestListenFlagsRepeatAndMayBeEmpty(t *testing.T) {
	cfg := load(t, source("", map[string]string{"ODMRD_ADMIN_LISTEN": ""},
		"--odmr-listen", "127.0.0.1:0", "--odmr-listen=[::1]:0", "--smtp-listen", "", "--lmtp-listen=127.0.0.1:1", "--lmtp-listen="))
	if !reflect.DeepEqual(cfg.ODMRListen, []Listen{"127.0.0.1:0", "[::1]:0"}) {
		t.Errorf("ODMRListen = %v", cfg.ODMRListen)
	}
	if len(cfg.SMTPListen)+len(cfg.LMTPListen)+len(cfg.AdminListen) != 0 {
		t.Errorf("not switched off: %v %v %v", cfg.SMTPListen, cfg.LMTPListen, cfg.AdminListen)
	}
	if cfg := load(t, source("smtp-listen: []\nlmtp-listen: ''\n", nil, "--config=x.yaml")); len(cfg.SMTPListen)+len(cfg.LMTPListen) != 0 {
		t.Errorf("not switched off by the file: %v %v", cfg.SMTPListen, cfg.LMTPListen)
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	file := "loops: many\nno-such-key: 1\nquit-timeout: 30\nwindow-messages:\nhelp: true\nlog-format: {a: b}\n"
	env := map[string]string{"ODMRD_MAX_SESSIONS": "-1"}
	got := problems(t, source(file, env, "--config=x.yaml", "--bogus", "7", "stray", "--log-level=loud",
		"--max-message-size", "5X", "--trusted-networks=10.0.0.1/8,foo", "--workers", "--data=", "--version=1"))
	for _, want := range []string{
		`--bogus: there is no such flag; --help lists them`,
		`"stray" is not a flag, and odmrd takes nothing else`,
		`--version: takes no value`,
		`--config: x.yaml:2: unknown key "no-such-key"`,
		`--config: x.yaml:5: key "help" has no meaning in a file`,
		`--data: is empty`,
		`--trusted-networks: "10.0.0.1/8" is not a network: bits after the first 8 are set; 10.0.0.0/8?`,
		`--trusted-networks: "foo" is not a network: write address/bits, as 192.0.2.0/24`,
		`--max-message-size: "5X" is not a size: write a whole number with B, KiB, MiB, GiB, TiB, PiB or kB, MB, GB, TB, PB (64KiB to 2GiB)`,
		`--max-sessions: "-1" is out of range: 0 to 1000000 (from environment variable ODMRD_MAX_SESSIONS)`,
		`--loops: "many" is not a whole number (0 to 256) (from x.yaml:1)`,
		`--workers: has no value`,
		`--window-messages: x.yaml:4: has no value; write [] or "" for none`,
		`--quit-timeout: "30" is not a duration: write a number with ms, s, m, h or d, as 90s, 1h30m or 5d (1s to 1h) (from x.yaml:3)`,
		`--log-level: "loud" is none of trace, debug, info, warn, error`,
		`--log-format: x.yaml:6: is a mapping, where a value or a list is wanted`,
	} {
		if !strings.Contains("\n"+got+"\n", "\n"+want+"\n") {
			t.Errorf("missing: %s", want)
		}
	}
	if n := strings.Count(got, "\n") + 1; n != 16 {
		t.Errorf("%d problems, want 16:\n%s", n, got)
	}
}

// TestEveryFlagRefusesNonsense: one problem, which names the flag and says what is allowed.
func TestEveryFlagRefusesNonsense(t *testing.T) {
	// What these name is looked up when the server starts.
	late := map[string]bool{"data": true, "accounts": true, "user": true}
	// What these name alone has no meaning, and why is said in other words.
	alone := regexp.MustCompile(`^(tls-(cert|key|client-ca)|smarthost-(ca|user|password-file)|accounts-(password-file|ca|query-.*|bind))$`)
	l, err := newLoader(Source{})
	if err != nil {
		t.Fatal(err)
	}
	const nonsense = "non^sense"
	for _, f := range l.flags() {
		if late[f.Name] {
			continue
		}
		got := problems(t, source("", nil, "--"+f.Name+"="+nonsense))
		if strings.Contains(got, "\n") || !strings.Contains(got, "--"+f.Name) {
			t.Errorf("--%s=%s: %s", f.Name, nonsense, got)
		}
		if !f.IsBool() && !alone.MatchString(f.Name) && !strings.Contains(got, nonsense) {
			t.Errorf("--%s=%s: the value is not shown: %s", f.Name, nonsense, got)
		}
		for _, choice := range strings.Split(f.Tag.Get("choices"), ",") {
			if !strings.Contains(got, choice) {
				t.Errorf("--%s=%s: %s is not among what is allowed: %s", f.Name, nonsense, choice, got)
			}
		}
		if f.Tag.Get("max") == "" {
			continue
		}
		bounds := f.Tag.Get("min") + " to " + f.Tag.Get("max")
		for _, value := range []string{nonsense, "", "-1", "9" + f.Tag.Get("max")} {
			got := problems(t, source("", nil, "--"+f.Name+"="+value))
			if !strings.HasPrefix(got, "--"+f.Name+": ") || strings.Contains(got, "\n") || !strings.Contains(got, bounds) {
				t.Errorf("--%s=%s: %s, and %s is allowed", f.Name, value, got, bounds)
			}
		}
	}
}

func TestProblemsAcrossFlags(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--odmr-listen=", "--smtp-listen=", "--lmtp-listen="},
			"--odmr-listen: nothing to serve: --odmr-listen, --odmrs-listen, --smtp-listen and --lmtp-listen are all empty"},
		{[]string{"--smtp-listen=127.0.0.1:25", "--admin-listen=127.0.0.1:25"},
			`--admin-listen: "127.0.0.1:25" is taken by --smtp-listen already`},
		{[]string{"--tls-cert=a.pem"}, "--tls-key: 0 keys for 1 certificates: each --tls-cert needs its --tls-key, in the same order"},
		{[]string{"--odmrs-listen=:1"}, "--odmrs-listen: needs a certificate: --tls-cert and --tls-key"},
		{[]string{"--tls-required=odmr"}, `--tls-required: "odmr=all" needs a certificate: --tls-cert and --tls-key`},
		{[]string{"--tls-required=smtp=auth"}, `--tls-required: "smtp=auth" is without meaning: there is no login over smtp; use smtp=all`},
		{[]string{"--tls-required=odmr=none,odmr=none"}, "--tls-required: odmr is named twice"},
		{[]string{"--admin-hosts=a:80"}, `--admin-hosts: "a:80" is ` + errHost.Error()},
		{[]string{"--admin-hosts=."}, `--admin-hosts: "." is ` + errHost.Error()},
		{[]string{"--tls-required=imap"}, `--tls-required: "imap" is ` + errTLSRule.Error()},
		{[]string{"--tls-client-ca=a.pem"}, "--tls-client-ca: needs a certificate: --tls-cert and --tls-key"},
		{[]string{"--hostname=not a name"}, `--hostname: "not a name" is not a host name (RFC 5321 2.3.5)`},
		{[]string{"--sasl-mechanisms=PLAIN-TEXT"}, `--sasl-mechanisms: "PLAIN-TEXT" is none of ` + strings.Join(account.Implemented(), ", ")},
		{[]string{"--sasl-mechanisms=CRAM-MD5,CRAM-MD5"}, `--sasl-mechanisms: "CRAM-MD5" is named twice`},
		{[]string{"--sasl-mechanisms="}, "--sasl-mechanisms: is empty: no customer could log in"},
		{[]string{"--accounts="}, "--accounts: is empty"},
		{[]string{"--accounts=redis://x"}, "--accounts: is neither a file nor a URL that is known: postgres, postgresql, mysql, mariadb, sqlite, ldap, ldaps, ldapi"},
		{[]string{"--accounts=postgres://u:xxxxx@h/d"}, "--accounts: has what --print-config shows in place of a password; give it with --accounts-password-file"},
		{[]string{"--accounts=mysql://u:secret@h/d", "--accounts-password-file=f"}, "--accounts-password-file: is given, and a password in --accounts"},
		{[]string{"--accounts=sqlite:f", "--accounts-bind=cn=x", "--accounts-password-file=f"}, "--accounts-password-file: SQLite has no passwords\n--accounts-bind: goes with --accounts of LDAP only"},
		{[]string{"--accounts-password-file=f"}, "--accounts-password-file: goes with --accounts of a URL only"},
		{[]string{"--accounts=ldap://h/dc=x", "--accounts-query-owners=q"}, "--accounts-query-owners: goes with --accounts of a database only"},
		{[]string{"--accounts=ldap://h/dc=x", "--accounts-attributes=uid"}, `--accounts-attributes: "uid" is not a choice of attribute: write WHAT=ATTRIBUTE, as name=uid`},
		{[]string{"--accounts-cache=5s", "--accounts-cache-negative=6s"}, "--accounts-cache-negative: 6s is longer than --accounts-cache, 5s"},
		{[]string{"--recipient-delimiters=+a"}, `--recipient-delimiters: "+a" has 'a' in it, which is no delimiter: give characters as + or -`},
		{[]string{"--recipient-delimiters=@"}, `--recipient-delimiters: "@" has '@' in it, which is no delimiter: give characters as + or -`},
		{[]string{"--config=missing.yaml"}, "--config: open missing.yaml: file does not exist"},
	} {
		if got := problems(t, source("", nil, c.args...)); got != c.want {
			t.Errorf("%v:\n got %s\nwant %s", c.args, got, c.want)
		}
	}
	if got := problems(t, source("a: [", nil, "--config=x.yaml")); !strings.HasPrefix(got, "--config: x.yaml: ") {
		t.Errorf("broken YAML: %s", got)
	}
}

func TestHelpAndVersionWorkWithABrokenConfiguration(t *testing.T) {
	cfg := load(t, source("", nil, "--loops=x", "--help"))
	if !cfg.Help {
		t.Error("Help is not set")
	}
}

// TestPrintRoundTrip gives every flag a value other than its default, prints the configuration
// and reads it back.
func TestPrintRoundTrip(t *testing.T) {
	args := []string{"--hostname=a.example", "--data=/tmp/a b: c", "--accounts=true", "--user=a:b", "--odmr-listen=",
		"--odmrs-listen=:8", "--tls-cert=a.pem,b.pem", "--tls-key=a.key,b.key", "--tls-min-version=1.3", "--tls-required=odmr=auth,smtp",
		"--tls-client-ca=ca.pem", "--tls-handshake-timeout=5s", "--smtp-listen=[::1]:0,:7", "--lmtp-listen=localhost:24", "--admin-listen=", "--admin-hosts=a.example,b,stack_odmrd,c.example.", "--trusted-networks=2001:db8::/32",
		"--max-message-size=65537B", "--max-recipients=100", "--sasl-mechanisms=CRAM-MD5",
		"--on-busy=refuse", "--takeover-interval=5s", "--linger=10m", "--linger-noop=1m", "--atrn-wait=20s", "--atrn-interval=30s",
		"--atrn-interval-reply=450", "--odmr-networks=192.0.2.0/24", "--proxy-networks=198.51.100.1/32", "--limit-exempt=", "--sessions-per-address=5", "--sessions-per-account=6",
		"--connections-per-minute=7", "--login-commands=8", "--session-errors=9", "--auth-failures=9", "--auth-lockout=10s", "--auth-delay=11s", "--max-sessions=7",
		"--loops=3", "--workers=9", "--prefetch-memory=5MB", "--ingest-memory=5GiB", "--window-messages=2",
		"--window-bytes=300kB", "--shield-refusals=4", "--learn-recipients=off", "--learned-lifetime=2h", "--learned-per-domain=3", "--recipient-delimiters=+-", "--shield-window=5", "--retention=1d12h", "--delay-notice=off", "--bounce=off", "--quota-messages=7", "--quota-bytes=8KiB",
		"--quota-reply=552", "--smarthost=relay.example:587", "--least-rate=7", "--rate-window=2m", "--smarthost-tls=required", "--smarthost-ca=r.pem", "--smarthost-user=me", "--smarthost-password-file=p",
		"--min-free-space=3MB", "--scheduling=normal", "--store-cache=2MiB", "--store-memtable=4MiB", "--login-timeout=1m30s", "--command-timeout=1h",
		"--greeting-timeout=1500ms", "--envelope-timeout=61m", "--data-init-timeout=1s", "--data-block-timeout=2s",
		"--data-done-timeout=3s", "--quit-timeout=4s", "--shutdown-grace=0s", "--log-level=error", "--log-format=console"}
	cfg := load(t, source("", nil, args...))
	standard := load(t, source("", nil))
	elsewhere := append(args, "--accounts-password-file=/p", "--accounts-cache=2m", "--accounts-cache-negative=3s", "--accounts-cache-entries=5000",
		"--accounts-stale=0s", "--accounts-timeout=6s", "--accounts-connections=4", "--accounts-ca=ca.pem", "--accounts-unverified")
	database := load(t, source("", nil, append(elsewhere, "--accounts=postgres://odmr@db.example/odmr?sslmode=disable",
		"--accounts-query-account=SELECT a, b FROM t WHERE n = :name", "--accounts-query-domains=d", "--accounts-query-owners=o", "--accounts-query-identities=i", "--accounts-query-recipients=r")...))
	directory := load(t, source("", nil, append(elsewhere, "--accounts=ldap://ldap.example/dc=isp,dc=example??sub?(a=b)", "--accounts-bind=cn=odmr,dc=isp",
		"--accounts-starttls", "--accounts-attributes=name=cn,password=userPassword")...))
	for i, d := 0, reflect.ValueOf(*standard); i < d.NumField(); i++ {
		f, same := d.Type().Field(i), true
		for _, c := range []*Config{cfg, database, directory} {
			same = same && reflect.DeepEqual(reflect.ValueOf(*c).Field(i).Interface(), d.Field(i).Interface())
		}
		if f.Tag.Get("file") != "-" && same {
			t.Errorf("%s has its default: the round trip shows nothing for it", f.Name)
		}
	}
	for _, c := range []*Config{cfg, standard, database, directory} {
		var text, again bytes.Buffer
		if err := WriteYAML(&text, c); err != nil {
			t.Fatal(err)
		}
		back := load(t, source(text.String(), nil, "--config=x.yaml"))
		back.ConfigFile = ""
		if !reflect.DeepEqual(back, c) {
			t.Errorf("read back\n%+v\nwant\n%+v\nfrom\n%s", back, c, text.String())
		}
		if err := WriteYAML(&again, back); err != nil || again.String() != text.String() {
			t.Errorf("printed again (error %v):\n%s\nfirst:\n%s", err, again.String(), text.String())
		}
	}
}

// TestEveryFlagIsDocumented holds the flag table to its rules.
func TestEveryFlagIsDocumented(t *testing.T) {
	var help, table bytes.Buffer
	if err := errors.Join(Usage(&help), WriteTable(&table)); err != nil {
		t.Fatal(err)
	}
	l, err := newLoader(Source{})
	if err != nil {
		t.Fatal(err)
	}
	group, ended := "", map[string]bool{} // in one piece each, so that table and --print-config have every title once
	for _, f := range l.flags() {
		if f.Group != nil && f.Group.Key != group {
			ended[group] = true
			if group = f.Group.Key; ended[group] {
				t.Errorf("--%s: the flags of group %s do not stand together", f.Name, group)
			}
		}
		if !strings.Contains(help.String(), "--"+f.Name) || !strings.Contains(table.String(), "`--"+f.Name+"`") {
			t.Errorf("--%s is missing from --help or the table", f.Name)
		}
		if inFile(f) && !strings.Contains(help.String(), "["+envName(f.Name)+"]") {
			t.Errorf("--%s: --help does not show %s", f.Name, envName(f.Name))
		}
		if f.Group == nil || len(f.Help) < 20 || !strings.HasSuffix(f.Help, ".") {
			t.Errorf("--%s: no group, or help that is no sentence: %q", f.Name, f.Help)
		}
		numeric := f.Target.Kind() == reflect.Int || f.Target.Kind() == reflect.Int64
		if numeric && (f.Tag.Get("min") == "" || f.Tag.Get("max") == "") {
			t.Errorf("--%s has no bounds: everything has a limit", f.Name)
		}
	}
}

func TestListen(t *testing.T) {
	for _, in := range []string{":366", "127.0.0.1:0", "[::1]:25", "[fe80::1%eth0]:25", "localhost:2525", "mail.isp.example:65535"} {
		var l Listen
		if err := l.UnmarshalText([]byte(in)); err != nil || string(l) != in {
			t.Errorf("%q: %q, %v", in, l, err)
		}
	}
	for _, in := range []string{"", "25", "127.0.0.1", "::1:25", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:025",
		"127.0.0.1:smtp", "300.1.2.3:25", "a b:25", "-a:25"} {
		var l Listen
		if err := l.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q was taken", in)
		}
	}
}

func TestOffDuration(t *testing.T) {
	for in, want := range map[string]OffDuration{"off": 0, "4h": OffDuration(4 * time.Hour), "1m": OffDuration(time.Minute), "2d": OffDuration(48 * time.Hour)} {
		var d OffDuration
		if err := d.UnmarshalText([]byte(in)); err != nil || d != want || d.String() != in {
			t.Errorf("%q: %v (%s), %v", in, want, d, err)
		}
	}
	for _, in := range []string{"", "on", "0s", "59s", "-1h", "0"} {
		var d OffDuration
		if err := d.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q was taken as %s", in, d)
		}
	}
}

// A password goes to a smarthost only that proves who it is, or that is this machine.
func TestSmarthostProblems(t *testing.T) {
	for args, want := range map[string]string{
		"--smarthost=relay.example:smpt":                                                                        "is not host:port",
		"--smarthost=relay.example:0":                                                                           "is not host:port",
		"--smarthost=relay.example:65536":                                                                       "is not host:port",
		"--smarthost=relay.example":                                                                             "is not host:port",
		"--smarthost-user=me --smarthost-password-file=p":                                                       "of no use without --smarthost",
		"--smarthost=relay.example:25 --smarthost-user=me":                                                      "goes with",
		"--smarthost=relay.example:25 --smarthost-user=me --smarthost-password-file=p":                          "would give the password",
		"--smarthost=relay.example:25 --smarthost-user=me --smarthost-password-file=p --smarthost-tls=none":     "would give the password",
		"--smarthost=relay.example:25 --smarthost-user=me --smarthost-password-file=p --smarthost-tls=required": "",
		"--smarthost=127.0.0.1:25 --smarthost-user=me --smarthost-password-file=p":                              "",
	} {
		_, err := Load(source("", nil, strings.Fields(args)...))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}
