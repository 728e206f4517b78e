package e2e

import (
	"bufio"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"odmr/internal/client"
)

// dialogue says each line and wants the reply to begin as told.
func dialogue(t *testing.T, addr string, lines ...[2]string) {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(conn)
	for _, l := range append([][2]string{{"", "220"}}, lines...) {
		if l[0] != "" {
			fmt.Fprint(conn, l[0]+"\r\n")
		}
		for more := true; more; {
			reply, err := r.ReadString('\n')
			if err != nil || !strings.HasPrefix(reply, l[1]) {
				t.Fatalf("%q was answered %q, %v", l[0], reply, err)
			}
			more = len(reply) > 3 && reply[3] == '-'
		}
	}
}

// TestInteropXForward: the MX (postfix) tells who its client was, and the customer's postfix behind fetchmail logs that
// client as the original one. A message of which the MX tells nothing is not taken for that client's.
func TestInteropXForward(t *testing.T) {
	needProgram(t, "fetchmail")
	a := customer("tim", "example.org")
	s := startServer(t, []client.Account{a})
	// XCLIENT makes postfix believe that its client is somebody else; XFORWARD is what it says of that.
	mx := startPostfix(t, "mx.isp.example", "relay_domains = example.org\nrelay_recipient_maps =\nrelay_transport = lmtp:inet:"+s.LMTP+
		"\nlmtp_send_xforward_command = yes\nsmtpd_authorized_xclient_hosts = 127.0.0.0/8\nsmtpd_relay_restrictions = permit_auth_destination, reject\n")
	mta := startPostfix(t, "mta.customer.example", "relay_domains = example.org\nrelay_recipient_maps =\nrelay_transport = discard:\n"+
		"smtpd_authorized_xforward_hosts = 127.0.0.0/8\n")
	dialogue(t, mx.Addr, [2]string{"EHLO test.example", "250"},
		[2]string{"XCLIENT NAME=spike.example ADDR=203.0.113.7 PORT=4711 PROTO=ESMTP HELO=helo.example", "220"},
		[2]string{"EHLO helo.example", "250"}, [2]string{"MAIL FROM:<a@far.example>", "250"}, [2]string{"RCPT TO:<b@example.org>", "250"},
		[2]string{"DATA", "354"}, [2]string{"Subject: x\r\n\r\nx\r\n.", "250"}, [2]string{"QUIT", "221"})
	mx.waitEmpty()
	mx.checkAllSent()
	handIn(t, s.SMTP, client.SenderOptions{}, message("nobody", kindText, 1000, "c@example.org"))
	if status, out := fetchmail(t, s, a, mta.Addr); status != 0 {
		t.Fatalf("fetchmail: status %d\n%s", status, tail(out, 3000))
	}
	mta.waitEmpty()
	accepted := regexp.MustCompile(`postfix/smtpd\[\d+\]: [0-9A-F]+: client=[^\n]*`).FindAllString(mta.Log(), -1)
	if len(accepted) != 2 || !strings.Contains(accepted[0], "orig_client=spike.example[203.0.113.7]") || strings.Contains(accepted[1], "spike") {
		t.Errorf("the customer's MTA logged\n%s", strings.Join(accepted, "\n"))
	}
}
