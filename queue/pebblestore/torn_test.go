package pebblestore

import (
	"testing"

	"odmr/internal/mail"
	"odmr/queue"
	"odmr/queue/pebblestore/crashfs"
)

// Wherever in the log the disk stops within reviews at the stage Partial, a recipient was told of and there is a report on it, or
// neither.
func TestPartialTorn(t *testing.T) {
	const messages = 12
	for tear := int64(0); tear < 6000; tear += 41 {
		disk := crashfs.New()
		s, err := Open("q", testOptions(t, disk.FS()).Still())
		if err != nil {
			t.Fatal(err)
		}
		for range messages {
			in, err := s.Begin(0)
			if err != nil {
				t.Fatal(err)
			}
			env := benchEnvelope("a.example", 4)
			env.Recipients = append(env.Recipients, mail.Recipient{Address: "other@a.example"})
			if err := in.Commit([]byte("xx\r\n"), []mail.Envelope{env}); err != nil {
				t.Fatal(err)
			}
		}
		l, err := s.Acquire([]string{"a.example"})
		if err != nil {
			t.Fatal(err)
		}
		ds, err := l.Next(nil, queue.Limit{Messages: messages, Bytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		var list []queue.Settlement
		for i := range ds {
			ds[i].Body.Close()
			list = append(list, queue.Settlement{Key: ds[i].Key, Outcomes: []mail.Outcome{{Status: mail.OutcomeFailed}, {Status: mail.OutcomeDeferred}}})
		}
		if err := l.Settle(list); err != nil {
			t.Fatal(err)
		}
		l.Release()
		h := &history{messages: map[mail.ID]*crashMessage{}, met: map[string]int{}}
		for i := range ds {
			e := &crashEntry{removal: span{never, never}, changes: make([][]*change, 2)}
			h.messages[ds[i].Envelope.ID] = &crashMessage{id: ds[i].Envelope.ID, entries: map[string]*crashEntry{"a.example": e}}
		}
		disk.TearLog(tear)
		for range messages {
			crashReview(t, s, h, "a.example", queue.Partial)
		}
		s2, err := Open("q", testOptions(t, disk.Killed().FS()).Still())
		if err != nil {
			t.Fatal(err)
		}
		reports, told := map[string]bool{}, 0
		for _, domain := range []string{crashReports, "a.example"} {
			if err := s2.List(domain, func(e queue.Entry) bool {
				for i := range e.Envelope.Recipients {
					switch r := &e.Envelope.Recipients[i]; {
					case domain == crashReports:
						reports[r.Address] = true
					case i == 0 && reports[crashReportFor(e.Envelope.ID, domain, 0)] != (r.State == mail.Bounced):
						t.Errorf("torn at %d: %v has state %d and a report: %v", tear, e.Envelope.ID, r.State, r.State != mail.Bounced)
					case i == 0 && r.State == mail.Bounced:
						told++
					}
				}
				return true
			}); err != nil {
				t.Fatal(err)
			}
		}
		if len(reports) != told {
			t.Errorf("torn at %d: %d reports, %d were told of", tear, len(reports), told)
		}
		mustClean(t, s2)
		if err := s2.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
