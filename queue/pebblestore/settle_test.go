package pebblestore

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"odmr/internal/mail"
	"odmr/queue"
)

// What is settled as nearly all mail is, delivered and with its body beside it, costs no memory but the batch's.
func TestSettleAllocations(t *testing.T) {
	s := mustOpen(t, "db", testOptions(t, vfs.NewMem()))
	work := settling{o: outstanding{entry: 120, record: 4096, stands: beside, recipients: 1, fresh: true}}
	settlement := queue.Settlement{Key: queue.Key{Domain: "a.example", Seq: 7}, Outcomes: []mail.Outcome{{Status: mail.OutcomeDelivered}}}
	b := s.db.NewBatchWithSize(1 << 10)
	defer b.Close()
	if n := testing.AllocsPerRun(100, func() {
		b.Reset()
		if err := s.settle(b, &work, &settlement); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if b.Count() != 2 || work.verdict != verdictRemove {
		t.Errorf("%d deletions, verdict %d", b.Count(), work.verdict)
	}
}
