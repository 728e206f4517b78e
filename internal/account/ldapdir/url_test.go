package ldapdir

import (
	"slices"
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"
)

func TestURL(t *testing.T) {
	for text, want := range map[string]target{
		"ldap://ldap.example/dc=isp,dc=example":                  {network: "tcp", addr: "ldap.example:389", host: "ldap.example", base: "dc=isp,dc=example", scope: ldap.ScopeWholeSubtree},
		"ldaps://ldap.example:1636/ou=a%20b,dc=isp??one":         {network: "tcp", addr: "ldap.example:1636", host: "ldap.example", tls: true, base: "ou=a b,dc=isp", scope: ldap.ScopeSingleLevel},
		"ldap://[::1]:389/dc=isp??sub?(objectClass=odmrAccount)": {network: "tcp", addr: "[::1]:389", host: "::1", base: "dc=isp", scope: ldap.ScopeWholeSubtree, filter: "(objectClass=odmrAccount)"},
		"ldapi://%2Frun%2Fslapd%2Fldapi/dc=isp???(a=b)":          {network: "unix", addr: "/run/slapd/ldapi", base: "dc=isp", scope: ldap.ScopeWholeSubtree, filter: "(a=b)"},
	} {
		if got, err := parseURL(text); err != nil || *got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "ldap:", "ldap://h", "ldap://h/", "ldap://h/nonsense", "ldap://h/dc=x?uid", "ldap://h/dc=x??base", "ldap://h/dc=x??sub?(a=", "ldap:///dc=x",
		"ldap://u:s3cret@h/dc=x", "ldapi:///dc=x", "http://h/dc=x", "ldap://h/dc=x???(a=b)?ext", "ldap://h/dc=%zz", "ldap://h:x/dc=x"} {
		if got, err := parseURL(text); err == nil {
			t.Errorf("%s was taken: %+v", text, got)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Error("quotes a password:", err)
		}
	}
}

// What peers send is a value in a filter and nothing else.
func TestNamesAreNoFilter(t *testing.T) {
	for _, name := range []string{"*", "tim)(uid=*", "*)(objectClass=*)", `\2a`, "a(b", "\x00", "tim))(|(uid=*", "bücher"} {
		text := equal("uid", name)
		packet, err := ldap.CompileFilter(text)
		if err != nil {
			t.Errorf("%q became %s: %v", name, text, err)
			continue
		}
		back, err := ldap.DecompileFilter(packet)
		if err != nil || back != text || uint64(packet.Tag) != ldap.FilterEqualityMatch {
			t.Errorf("%q became %s, read as %s (tag %d), %v", name, text, back, packet.Tag, err)
		}
		if v, ok := packet.Children[1].Value.(string); !ok || v != name {
			if packet.Children[1].Data.String() != name {
				t.Errorf("%q is asked for as %q", name, packet.Children[1].Data.String())
			}
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for want, cfg := range map[string]Config{
		"StartTLS goes with ldap:// only":                   {URL: "ldaps://h/dc=x", StartTLS: true},
		"a bind DN needs a password file":                   {URL: "ldap://h/dc=x", Bind: "cn=x"},
		`bind: "x" is not a DN (RFC 4514)`:                  {URL: "ldap://h/dc=x", Bind: "x", PasswordFile: "f"},
		"CA file: open /nowhere: no such file or directory": {URL: "ldaps://h/dc=x", CAFile: "/nowhere"},
	} {
		if _, err := Open(cfg); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	a := Defaults
	for _, c := range [][2]string{{"colour", "x"}, {"name", ""}, {"name", "a)(b"}} {
		if a.Set(c[0], c[1]) == nil {
			t.Errorf("%v was taken", c)
		}
	}
	if err := a.Set("password", "userPassword"); err != nil || a.Password != "userPassword" {
		t.Error(err)
	}
}

// Both files of the schema say the same.
func TestSchemasAgree(t *testing.T) {
	definitions := func(text string, begin ...string) (out []string) {
		text = strings.ReplaceAll(text, "\n ", "") // LDIF's folding, and what slapd.conf does with lines that begin with a blank
		for _, line := range strings.Split(text, "\n") {
			for _, b := range begin {
				if rest, ok := strings.CutPrefix(line, b+" "); ok {
					out = append(out, strings.Join(strings.Fields(rest), " "))
				}
			}
		}
		return out
	}
	file := definitions(Schema(), "objectIdentifier", "attributetype", "objectclass")
	ldif := definitions(SchemaLDIF(), "olcObjectIdentifier:", "olcAttributeTypes:", "olcObjectClasses:")
	if len(file) != 7 || !slices.Equal(file, ldif) {
		t.Errorf("%q\n%q", file, ldif)
	}
	for _, a := range []string{Defaults.Domain, Defaults.Secret, Defaults.Setting, "odmrIdentity", "odmrRecipient"} {
		if !strings.Contains(Schema(), "NAME '"+a+"'") {
			t.Errorf("%s is not in the schema", a)
		}
	}
}
