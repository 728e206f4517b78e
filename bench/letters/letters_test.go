package letters

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"odmr/codec"
)

// content is message id as it goes out.
func content(s *Stock, id uint64, size int) []byte {
	t := s.Text(id, size)
	return append(t.AppendFirst(nil, id), t.Plain...)
}

// judged gives b to a Judge in pieces of at most n octets.
func judged(b []byte, n int) *Judge {
	j := new(Judge)
	for len(b) > 0 {
		k := min(n, len(b))
		j.Write(b[:k])
		b = b[k:]
	}
	return j
}

const received = "Received: from mx by relay\r\n\twith ESMTP id x; now\r\n"

// However a message is cut, and with the server's own fields in front, it is known and intact.
func TestJudgeKnowsWhatWasMade(t *testing.T) {
	stock := NewStock()
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.Uint64().Draw(t, "id")
		size := rapid.IntRange(MinSize, 9000).Draw(t, "size")
		b := content(stock, id, size)
		if len(b) != size {
			t.Fatalf("content has %d octets, want %d", len(b), size)
		}
		got, intact, known := judged(append([]byte(received), b...), rapid.IntRange(1, 9000).Draw(t, "cut")).End()
		if got != id || !intact || !known {
			t.Fatalf("judged as message %d, intact %v, known %v; want %d", got, intact, known, id)
		}
	})
}

// Whatever single octet behind the first line changes, goes or comes is noticed.
func TestJudgeNoticesAlteration(t *testing.T) {
	stock := NewStock()
	rapid.Check(t, func(t *rapid.T) {
		b := content(stock, 7, 1000)
		at := rapid.IntRange(markerLen, len(b)-1).Draw(t, "at")
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			b[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		case 1:
			b = append(b[:at], b[at+1:]...)
		case 2:
			b = append(b[:at], append([]byte{b[at] + 1}, b[at:]...)...)
		}
		if _, intact, _ := judged(b, 256).End(); intact {
			t.Fatal("an altered message was taken for intact")
		}
	})
}

// A message whose first line was exchanged for another's is altered, and one without is unknown.
func TestJudgeNoticesWrongFirstLine(t *testing.T) {
	stock := NewStock()
	a, b := content(stock, 1, 1000), content(stock, 2, 1000)
	swapped := append(append([]byte(nil), a[:markerLen]...), b[markerLen:]...)
	if stock.Text(1, 1000) == stock.Text(2, 1000) { // the same text: only the number tells them apart
		swapped = bytes.Replace(a, []byte("0000000000000001"), []byte("0000000000000002"), 1)
	}
	if _, intact, known := judged(swapped, 100).End(); intact || !known {
		t.Errorf("mixed message: intact %v, known %v; want false, true", intact, known)
	}
	if _, _, known := judged(b[markerLen:], 100).End(); known {
		t.Error("a message without first line is known")
	}
	if _, _, known := judged(bytes.Repeat([]byte("X-Other: field\r\n"), 2000), 1000).End(); known {
		t.Error("a long header section without first line is known")
	}
}

// The ledger finds each planted fault, and nothing in a clean run.
func TestLedgerFindsPlantedFaults(t *testing.T) {
	stock := NewStock()
	arrive := func(l *Ledger, id uint64) { l.Arrived(judged(content(stock, id, 500), 500)) }
	for _, c := range []struct {
		name  string
		plant func(l *Ledger)
		want  Verdict
	}{
		{"nothing", func(*Ledger) {}, Verdict{Acked: 100, Arrived: 101}},
		{"loss", func(l *Ledger) { l.Acked(101) }, Verdict{Acked: 101, Arrived: 101, Lost: 1}},
		{"a second copy", func(l *Ledger) { arrive(l, 5) }, Verdict{Acked: 100, Arrived: 101, Again: 1}},
		{"alteration", func(l *Ledger) {
			l.Acked(102)
			b := content(stock, 102, 500)
			b[len(b)-5]++
			l.Arrived(judged(b, 500))
		}, Verdict{Acked: 101, Arrived: 101, Lost: 1, Altered: 1}},
		{"a stranger", func(l *Ledger) { arrive(l, 1<<40) }, Verdict{Acked: 100, Arrived: 101, Strange: 1}},
		{"disorder", func(l *Ledger) { l.Disordered(3) }, Verdict{Acked: 100, Arrived: 101, Disordered: 1}},
	} {
		l := NewLedger(128)
		for id := range uint64(100) {
			l.Acked(id)
			arrive(l, id)
		}
		arrive(l, 100) // arrived, and its 250 was lost with the connection: no fault
		c.plant(l)
		got := l.Verdict()
		if c.name == "nothing" != got.Clean() {
			t.Errorf("%s: clean is %v", c.name, got.Clean())
		}
		if (len(got.Remarks) > 0) != (c.name != "nothing" && c.name != "loss") {
			t.Errorf("%s: remarks %q", c.name, got.Remarks)
		}
		got.Remarks = nil
		if got.String() != c.want.String() {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// The texts are legal content, and one of them has the dots that stuffing is for.
func TestTextsAreLegalAndSomeHaveDots(t *testing.T) {
	stock := NewStock()
	stuffed, lone := false, false
	for id := range uint64(64) {
		text := stock.Text(id, 4096)
		var scan codec.DataScanner
		body, _, end := scan.Next(append(text.AppendFirst(nil, id), append(append([]byte(nil), text.Wire...), ".\r\n"...)...))
		if !end || scan.BareCR || scan.BareLF || scan.NUL || body != markerLen+len(text.Wire) {
			t.Fatalf("text of message %d is not legal: %+v, end %v", id, scan.Content, end)
		}
		stuffed = stuffed || scan.Stuffed
		lone = lone || bytes.Contains(text.Plain, []byte("\r\n.\r\n"))
		var u codec.Unstuffer
		if !bytes.Equal(u.Append(nil, text.Wire), text.Plain) {
			t.Fatalf("text of message %d: wire form does not give the plain form back", id)
		}
	}
	if !stuffed || !lone {
		t.Errorf("dots at line starts %v, a line that is a dot %v; want both", stuffed, lone)
	}
}

func TestSizes(t *testing.T) {
	s, err := ParseSizes("1KiB:3,64KiB:1")
	if err != nil {
		t.Fatal(err)
	}
	count := map[int]int{}
	for id := range uint64(10000) {
		count[s.Of(id)]++
	}
	if len(count) != 2 || count[1024] < 7000 || count[1024] > 8000 {
		t.Errorf("10,000 messages have the sizes %v, want about 3 to 1", count)
	}
	if mean := s.Mean(); mean != (3*1024+65536)/4.0 {
		t.Errorf("mean %v", mean)
	}
	for _, text := range []string{"", "4XB", "4KiB:0", "4KiB:x", "10", "-1", "9999999GiB", "4KiB,,8KiB"} {
		if s, err := ParseSizes(text); err == nil {
			t.Errorf("ParseSizes(%q) = %v, want an error", text, s)
		}
	}
	for name := range Mixes {
		if _, err := ParseSizes(name); err != nil {
			t.Errorf("mix %s: %v", name, err)
		}
	}
	for n, want := range map[int]string{4096: "4KiB", 1 << 20: "1MiB", 1000: "1000B", 0: "0B", 1536: "1536B"} {
		if got := FormatSize(n); got != want {
			t.Errorf("FormatSize(%d) = %q, want %q", n, got, want)
		}
		if back, err := ParseSize(want); err != nil || back != n {
			t.Errorf("ParseSize(%q) = %d, %v", want, back, err)
		}
	}
}

// Making a message and judging it cost no memory.
func TestNoAllocations(t *testing.T) {
	stock := NewStock()
	text := stock.Text(1, 4096)
	buf := make([]byte, 0, 8192)
	var j Judge
	front := []byte(received)
	n := testing.AllocsPerRun(100, func() {
		buf = append(text.AppendFirst(append(buf[:0], front...), 1), text.Plain...)
		j.Write(buf)
		if _, intact, _ := j.End(); !intact {
			t.Fatal("altered")
		}
		j.Reset()
	})
	if n > 0 {
		t.Errorf("%v allocations for each message", n)
	}
}

func TestVerdictSaysWhatIsWrong(t *testing.T) {
	if text := (Verdict{Acked: 3, Arrived: 2, Lost: 1, Remarks: []string{"x"}}).String(); !strings.Contains(text, "lost 1") || !strings.Contains(text, "x") {
		t.Errorf("%q", text)
	}
}
