package pebblestore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"odmr/internal/mail"
)

// sampleEntries have every field at both ends of its range.
func sampleEntries() []mail.Envelope {
	plain := benchEnvelope("a.example", 4096)
	plain.ID = 7
	full := mail.Envelope{
		ID: 1<<64 - 1, Domain: "a.example", Arrived: -1, ReversePath: strings.Repeat("r", 254), Body: mail.Body8BitMIME, SMTPUTF8: true,
		Ret: mail.ReturnHeaders, EnvID: "env+2Bid", Client: "2001:db8::1", Size: 1<<63 - 1, WireSize: 1<<63 - 1, Stuffed: true, EightBit: true,
		Attempts: 1<<32 - 1, InDoubt: true, DelayNotified: true,
		Origin: &mail.Origin{Name: strings.Repeat("n", 255), Addr: "2001:db8::2", Port: "65535", Proto: "ESMTP", Helo: "[192.0.2.1]", Ident: "4Xy", Source: "REMOTE"},
	}
	for i := range 1000 {
		full.Recipients = append(full.Recipients, mail.Recipient{
			Address: fmt.Sprintf("user%d@a.example", i), Notify: mail.Notify(i % 16), ORcpt: strings.Repeat("o", i%300),
			State: mail.RecipientState(i % 5), Reply: strings.Repeat("x", i%513),
		})
	}
	least := mail.Envelope{Domain: "a.example", Recipients: make([]mail.Recipient, 1)}
	noticed, bare := least, least // each of what only v2 can say, alone
	noticed.DelayNotified = true
	bare.Origin = new(mail.Origin)
	return []mail.Envelope{plain, full, least, noticed, bare}
}

func TestEntryRecord(t *testing.T) {
	places := [...]bodyPlace{underID, beside, alone}
	for i, want := range sampleEntries() {
		rec := appendEntry([]byte("prefix"), &want, places[i%3])[len("prefix"):]
		got, stands, err := decodeEntry("a.example", rec)
		if err != nil || stands != places[i%3] || !reflect.DeepEqual(got, want) {
			t.Fatalf("%+v\nbecame\n%+v, %v", want, got, err)
		}
		if p, err := peekEntry(rec); p != (entryPeek{want.ID, want.WireSize, stands}) || err != nil {
			t.Fatalf("peek: %+v %v", p, err)
		}
		if len(rec) > entrySize(&want) {
			t.Fatalf("%d octets, entrySize says %d at most", len(rec), entrySize(&want))
		}
		for n := range min(len(rec), 600) { // no beginning of a record is one
			if _, _, err := decodeEntry("a.example", rec[:n]); err == nil {
				t.Fatalf("the first %d of %d octets decode", n, len(rec))
			}
		}
		if _, _, err := decodeEntry("a.example", append(rec, 0)); err == nil {
			t.Fatal("an octet too many is taken")
		}
		clear(rec)
		if !reflect.DeepEqual(got, want) {
			t.Fatal("the envelope aliases the record")
		}
	}
}

func TestEntryRecordRefusals(t *testing.T) {
	env := benchEnvelope("a.example", 1)
	rec := appendEntry(nil, &env, beside)
	for name, edit := range map[string]func([]byte) []byte{
		"version 0":       func(b []byte) []byte { b[0] = 0; return b },
		"version 3":       func(b []byte) []byte { b[0] = 3; return b },
		"version 2 alone": func(b []byte) []byte { b[0] = 2; return b },
		"v2 with nothing": func(b []byte) []byte { b[0] = 2; return append(b, 0) },
		"v2, unknown bit": func(b []byte) []byte { b[0] = 2; return append(b, 0x81) },
		"v2, no origin":   func(b []byte) []byte { b[0] = 2; return append(b, moreOrigin) },
		"unknown flag":    func(b []byte) []byte { b[1] |= 0x80; return b },
		"two places":      func(b []byte) []byte { b[1] |= flagOwn | flagAlone; return b },
		"body type":       func(b []byte) []byte { b[2] = 2; return b },
		"ret":             func(b []byte) []byte { b[3] = 3; return b },
		"a number longer": func(b []byte) []byte { return append(append(append([]byte(nil), b[:12]...), 0x81, 0), b[13:]...) },
	} {
		if _, _, err := decodeEntry("a.example", edit(bytes.Clone(rec))); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestBodyRecord(t *testing.T) {
	for _, want := range []struct {
		head bodyHead
		data string
	}{
		{bodyHead{size: 5, refs: []ref{{"a.example", 9}}}, "hello"},
		{bodyHead{size: 0, refs: []ref{{"a.example", 9}, {"b.example", 1<<64 - 1}}}, ""},
		{bodyHead{size: 1 << 40, chunks: 1<<32 - 1, refs: []ref{{strings.Repeat("d", mail.MaxDomain), 0}}}, ""},
	} {
		rec := append(appendBodyHead(nil, &want.head), want.data...)
		head, data, err := decodeBodyHead(rec)
		if err != nil || !reflect.DeepEqual(head, want.head) || string(data) != want.data {
			t.Fatalf("%+v became %+v %q %v", want, head, data, err)
		}
		for n := range rec {
			if _, _, err := decodeBodyHead(rec[:n]); err == nil {
				t.Fatalf("the first %d of %d octets decode", n, len(rec))
			}
		}
		if _, _, err := decodeBodyHead(append(rec, 0)); err == nil {
			t.Fatal("an octet too many is taken")
		}
	}
}

// FuzzRecord: no octets make a decoder panic, and what decodes is the one form of what it says.
func FuzzRecord(f *testing.F) {
	for _, env := range sampleEntries() {
		for _, stands := range [...]bodyPlace{underID, beside, alone} {
			f.Add(appendEntry(nil, &env, stands))
		}
	}
	f.Add(append(appendOwnHead(nil, 77), "ab"...))
	f.Add(append(appendBodyHead(nil, &bodyHead{size: 2, refs: []ref{{"a.example", 1}, {"b.example", 2}}}), "ab"...))
	f.Add(appendBodyHead(nil, &bodyHead{size: 300_000, chunks: 2, refs: []ref{{"a.example", 1}}}))
	f.Add(appendNumber(nil, 77))
	f.Fuzz(func(t *testing.T, rec []byte) {
		if env, stands, err := decodeEntry("a.example", rec); err == nil {
			if again := appendEntry(nil, &env, stands); !bytes.Equal(again, rec) {
				t.Fatalf("%x is also %x", rec, again)
			}
			if p, err := peekEntry(rec); err != nil || p != (entryPeek{env.ID, env.WireSize, stands}) {
				t.Fatalf("peek says %+v %v", p, err)
			}
		}
		if head, data, err := decodeBodyHead(rec); err == nil {
			if again := append(appendBodyHead(nil, &head), data...); !bytes.Equal(again, rec) {
				t.Fatalf("%x is also %x", rec, again)
			}
		}
		if id, data, err := decodeOwn(rec); err == nil {
			if again := append(appendOwnHead(nil, id), data...); !bytes.Equal(again, rec) {
				t.Fatalf("%x is also %x", rec, again)
			}
		}
		if n, err := decodeNumber(rec); err == nil && !bytes.Equal(appendNumber(nil, n), rec) {
			t.Fatalf("%x is also %d", rec, n)
		}
		parseBodyKey(rec)
		parseChunkKey(rec)
		if d, seq, ok := parseEntryKey(rec, spaceEntry); ok && validDomain(string(d)) {
			if again := appendEntryKey(nil, spaceEntry, string(d), seq); !bytes.Equal(again, rec) {
				t.Fatalf("key %x is also %x", rec, again)
			}
		}
	})
}

// TestKeyOrder: keys of one domain are in the order of their numbers and stay together.
func TestKeyOrder(t *testing.T) {
	var last []byte
	for _, d := range []string{"a", "a-b", "a.example", "a.example.org", "aa.example", "b"} {
		for _, seq := range []uint64{0, 1, 255, 256, 1 << 40, 1<<64 - 1} {
			k := appendEntryKey(nil, spaceEntry, d, seq)
			if bytes.Compare(last, k) >= 0 {
				t.Fatalf("%q is not before %q", last, k)
			}
			last = k
			if name, n, ok := parseEntryKey(k, spaceEntry); !ok || string(name) != d || n != seq {
				t.Fatalf("%q parses as %q %d %v", k, name, n, ok)
			}
		}
	}
}

func TestDecodeAllocations(t *testing.T) {
	env := benchEnvelope("a.example", 100)
	rec := appendEntry(nil, &env, beside)
	// One for the copy of the record, one for the recipients.
	if n := testing.AllocsPerRun(100, func() {
		if _, _, err := decodeEntry("a.example", rec); err != nil {
			t.Fatal(err)
		}
	}); n > 2 {
		t.Fatalf("%v allocations", n)
	}
	if binary.BigEndian.Uint64(rec[4:]) != uint64(env.ID) {
		t.Fatal("the id is not where peekEntry looks")
	}
}
