package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"odmr/internal/client"
)

// TestTwoCustomersBehindOneAddress: two customers drain at once from the same address; each
// gets its own mail and nothing else. (A known server told its sessions apart by the peer's address.)
func TestTwoCustomersBehindOneAddress(t *testing.T) {
	names := []string{"north", "south"}
	var accounts []client.Account
	for _, n := range names {
		accounts = append(accounts, customer(n, n+".example", n+"-two.example"))
	}
	s := startServer(t, accounts)
	const each = 200
	var messages []client.Message
	for i := range each {
		for _, n := range names {
			to := n + ".example"
			if i%3 == 0 {
				to = n + "-two.example"
			}
			messages = append(messages, message(fmt.Sprintf("%s-%d", n, i), i%kinds, 100+i*100, "a@"+to))
		}
	}
	handIn(t, s.SMTP, client.SenderOptions{}, messages...)

	// Neither goes on with its first message until the other has got one too: they do overlap.
	arrived := map[string]chan struct{}{"north": make(chan struct{}), "south": make(chan struct{})}
	other := map[string]string{"north": "south", "south": "north"}
	var all sync.WaitGroup
	for _, n := range names {
		all.Add(1)
		go func() {
			defer all.Done()
			rec := &client.Recorder{Keep: 8192}
			var once sync.Once
			rec.OnCommit = func(*client.Received) error {
				once.Do(func() {
					close(arrived[n])
					select {
					case <-arrived[other[n]]:
					case <-time.After(patience):
						t.Errorf("%s waited in vain for %s to get a message too", n, other[n])
					}
				})
				return nil
			}
			stats, err := client.Collect(t.Context(), s.ODMR, customer(n), client.Options{Timeout: patience, Offer: client.FullOffer()}, rec)
			if err != nil || stats.Messages != each || len(stats.Breaches) > 0 {
				t.Errorf("%s: %+v, %v", n, stats, err)
			}
			for _, m := range rec.Messages() {
				id := idOf(t, m.Content)
				if !strings.HasPrefix(id, n+"-") {
					t.Errorf("%s got %s", n, id)
				}
				for _, to := range addresses(&m.Envelope) {
					if !strings.HasPrefix(to, "a@"+n) {
						t.Errorf("%s got %s for %s", n, id, to)
					}
				}
			}
		}()
	}
	all.Wait()
}

// TestOwnRecipientsOnly: a message for two customers' domains reaches each with its own recipients only,
// whichever place it has in the session. (A known server did so for the first message only.)
func TestOwnRecipientsOnly(t *testing.T) {
	const length = 4
	for place := range length {
		for name, offer := range offers {
			t.Run(fmt.Sprintf("place %d %s", place, name), func(t *testing.T) {
				t.Parallel()
				north, south := customer("north", "north.example"), customer("south", "south.example", "south-two.example")
				s := startServer(t, []client.Account{north, south})
				var messages []client.Message
				for i := range length {
					if i == place {
						messages = append(messages, message("both", kindDots, 5000,
							"a@south.example", "a@north.example", "b@SOUTH.example", "b@north.example", "c@south-two.example"))
						continue
					}
					messages = append(messages, message(fmt.Sprintf("n%d", i), kindText, 100, "x@north.example"),
						message(fmt.Sprintf("s%d", i), kindText, 100, "x@south.example"))
				}
				handIn(t, s.SMTP, client.SenderOptions{}, messages...)
				drain := func(a client.Account) map[string][]string {
					rec := &client.Recorder{Keep: 8192}
					collectAs(t, s, a, offer, rec)
					got := map[string][]string{}
					for _, m := range rec.Messages() {
						got[idOf(t, m.Content)] = append(got[idOf(t, m.Content)], addresses(&m.Envelope)...)
						if string(original(t, m.Content)) != string(content(idOf(t, m.Content), kindDots, 5000)) && idOf(t, m.Content) == "both" {
							t.Error("the message for both came altered")
						}
					}
					if len(got) != length {
						t.Errorf("%s got %v", a.User, got)
					}
					return got
				}
				if got := fmt.Sprint(drain(north)["both"]); got != "[a@north.example b@north.example]" {
					t.Errorf("north: %s", got)
				}
				// A message for two domains of one customer comes once for each domain.
				got := drain(south)["both"]
				if fmt.Sprint(got) != "[a@south.example b@SOUTH.example c@south-two.example]" && fmt.Sprint(got) != "[c@south-two.example a@south.example b@SOUTH.example]" {
					t.Errorf("south: %s", got)
				}
			})
		}
	}
}
