package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"odmr/internal/client"
)

// The README's examples of bringing mail in and taking it out do what they say.
func TestReadmeImport(t *testing.T) {
	s := startServer(t, []client.Account{customer("tim", "example.org", "example.com")})
	t.Setenv("ODMRCTL_DATA", s.Data)
	box, old := filepath.Join(s.Dir, "customer"), filepath.Join(s.Dir, "mbox")
	putMaildir(t, box, 3, time.Now())
	from := "From x@mx.example " + time.Now().UTC().Format(time.ANSIC) + "\n"
	if err := os.WriteFile(old, []byte(from+"\none\n\n"+from+"\n>From two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := run(t, "", adapt(t, readmeBlock(t, "odmrctl import --dry-run"), "/var/mail/customer", box, "/var/mail/old", old))
	if !strings.Contains(out, "3 messages to be taken") || !strings.Contains(out, "2 messages taken") {
		t.Errorf("import says %q", out)
	}
	dir, one := filepath.Join(s.Dir, "out"), filepath.Join(s.Dir, "one")
	out = run(t, "", adapt(t, readmeBlock(t, "odmrctl export --domain"), "/var/backups/mail", dir, "/var/backups/example.org", one))
	if strings.Count(out, "2 messages exported") != 2 || !strings.Contains(out, "2 messages removed") {
		t.Errorf("export says %q", out)
	}
	spool := filepath.Join(s.Dir, "spool")
	for _, d := range []string{"postfix/deferred", "exim4/input"} {
		if err := os.MkdirAll(filepath.Join(spool, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	out = run(t, "", adapt(t, readmeBlock(t, "postfix:/var/spool"), "/var/spool", spool))
	if want := fmt.Sprintf("%[1]s%[1]s", "0 messages taken (for 0 recipients), 0 here already, 0 left\n"); out != want {
		t.Errorf("import of empty queues says %q", out)
	}
}
