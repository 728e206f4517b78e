package e2e

import (
	"testing"

	"odmr/internal/client"
)

// midway is a customer in the middle of a long message.
func midway(t *testing.T, s *Server) *rawPeer {
	t.Helper()
	handIn(t, s.SMTP, client.SenderOptions{}, message("long", kindText, 20<<20, "a@example.org"))
	for i := range stalls {
		if l := &stalls[i]; l.name == "body" {
			p, err := l.hold(t.Context(), s.ODMR, nil, "tim", "example.org")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { p.Close() })
			return p
		}
	}
	t.Fatal("no such state")
	return nil
}

func withdrawn(t *testing.T, s *Server) {
	t.Helper()
	until(t, "the session to end", func() bool { return s.metric("odmr_withdrawals_total") == 1 })
}

// TestAccountRemovedWhileItCollects: what odmrctl takes away is taken from a session that is draining mail, too.
func TestAccountRemovedWhileItCollects(t *testing.T) {
	s := startServer(t, []client.Account{customer("tim", "example.org"), customer("eve", "eve.example")})
	midway(t, s)
	if out, err := runProgram("", "odmrctl", "--accounts", s.Accounts, "account", "remove", "tim"); err != nil {
		t.Fatal(err, out)
	}
	withdrawn(t, s)
}

// TestAccountRemovedElsewhere: nobody tells of a change in a database, and it is in effect within --accounts-cache.
func TestAccountRemovedElsewhere(t *testing.T) {
	p := startSQLite(t)
	p.add("tim", secretsOf(t, password), "example.org")
	s := newServer(t, nil, "--accounts-cache", "1s", "--accounts-cache-negative", "500ms")
	s.Accounts = p.url
	s.Start()
	midway(t, s)
	p.run("DELETE FROM odmr_domains; DELETE FROM odmr_accounts")
	withdrawn(t, s)
}
