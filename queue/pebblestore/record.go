package pebblestore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"odmr/internal/mail"
)

// Records. The first octet is the version; a store with a version that this code does not know is
// refused, never guessed at. Numbers are unsigned varints in their shortest form unless said
// otherwise, strings a varint length and the octets. Decoding is strict: an octet too
// many, a value out of range or a longer number than needed is an error, so that every
// valid record has exactly one form: an entry is v2 only where v1 cannot say all of it.
//
//	entry v1:  01 FLAGS BODY RET  ID(8)  WIRESIZE SIZE ATTEMPTS ARRIVED(8)
//	           REVERSE-PATH ENVID CLIENT  COUNT { ADDRESS NOTIFY ORCPT STATE REPLY }
//	entry v2:  02, then as v1 to its end, then MORE, then what MORE says:
//	           { NAME ADDR PORT PROTO HELO IDENT SOURCE } of the origin
//	body v1:   01 SIZE CHUNKS COUNT { DOMAIN SEQ(8) }  octets (CHUNKS 0 only)
//	own v1:    01 ID(8)  octets
//	number v1: 01 N(8), of a stamp: Unix nanoseconds
const recordVersion = 1

// entryVersion2 is that of an entry with something behind its recipients.
const entryVersion2 = 2

var errRecord = errors.New("bad record")

// Bits of FLAGS in an entry record.
const (
	flagSMTPUTF8 = 1 << iota
	flagStuffed
	flagEightBit
	flagInDoubt
	flagOwn    // see beside
	flagAlone  // see alone
	flagsKnown = 1<<iota - 1
)

// bodyPlace says where the body of an entry stands: which of its bits are in FLAGS.
type bodyPlace byte

const (
	// underID: its record says more of it, as it may have other entries, and tells how many pieces there are.
	underID bodyPlace = 0
	// beside: an own body, beside the entry.
	beside bodyPlace = flagOwn
	// alone: under its id, with this one entry, and in the pieces that pieceCount says. Its record tells nothing that
	// the entry does not, so that reading the body needs no look at it.
	alone bodyPlace = flagAlone
)

// pieceCount is how many pieces a body of size octets is cut into: whole chunks, and a last one of at most mail.LastPiece.
func pieceCount(size int64) uint32 {
	if size <= mail.LastPiece {
		return 1
	}
	return 1 + uint32((size-mail.LastPiece+mail.ChunkSize-1)/mail.ChunkSize)
}

// Bits of MORE in an entry record v2. None of them is no v2.
const (
	moreDelayNotified = 1 << iota
	moreOrigin        // the origin's values follow
	moreKnown         = 1<<iota - 1
)

// notifyKnown are the bits that Recipient.Notify may have.
const notifyKnown = mail.NotifyNever | mail.NotifySuccess | mail.NotifyFailure | mail.NotifyDelay

// minRecipient is the shortest form of a recipient in an entry record.
const minRecipient = 5

// appendEntry appends the record of env, whose body stands at stands. Its domain is in the key, not in the record.
func appendEntry(dst []byte, env *mail.Envelope, stands bodyPlace) []byte {
	flags := byte(stands)
	for _, f := range [...]struct {
		on  bool
		bit byte
	}{{env.SMTPUTF8, flagSMTPUTF8}, {env.Stuffed, flagStuffed}, {env.EightBit, flagEightBit}, {env.InDoubt, flagInDoubt}} {
		if f.on {
			flags |= f.bit
		}
	}
	version, more := byte(recordVersion), entryMore(env)
	if more != 0 {
		version = entryVersion2
	}
	dst = append(dst, version, flags, byte(env.Body), byte(env.Ret))
	dst = binary.BigEndian.AppendUint64(dst, uint64(env.ID))
	dst = binary.AppendUvarint(dst, uint64(env.WireSize))
	dst = binary.AppendUvarint(dst, uint64(env.Size))
	dst = binary.AppendUvarint(dst, uint64(env.Attempts))
	dst = binary.BigEndian.AppendUint64(dst, uint64(env.Arrived))
	dst = appendString(dst, env.ReversePath)
	dst = appendString(dst, env.EnvID)
	dst = appendString(dst, env.Client)
	dst = binary.AppendUvarint(dst, uint64(len(env.Recipients)))
	for i := range env.Recipients {
		r := &env.Recipients[i]
		dst = appendString(dst, r.Address)
		dst = append(dst, byte(r.Notify))
		dst = appendString(dst, r.ORcpt)
		dst = append(dst, byte(r.State))
		dst = appendString(dst, r.Reply)
	}
	if more == 0 {
		return dst
	}
	dst = append(dst, more)
	if env.Origin != nil {
		for _, v := range originValues(env.Origin) {
			dst = appendString(dst, *v)
		}
	}
	return dst
}

// entryMore is MORE of env's record.
func entryMore(env *mail.Envelope) (more byte) {
	if env.DelayNotified {
		more |= moreDelayNotified
	}
	if env.Origin != nil {
		more |= moreOrigin
	}
	return more
}

// originValues are o's values in the order of the record.
func originValues(o *mail.Origin) [7]*string {
	return [...]*string{&o.Name, &o.Addr, &o.Port, &o.Proto, &o.Helo, &o.Ident, &o.Source}
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// entrySize bounds the length of env's record, so that encoding allocates once.
func entrySize(env *mail.Envelope) int {
	n := 64 + len(env.ReversePath) + len(env.EnvID) + len(env.Client)
	for i := range env.Recipients {
		r := &env.Recipients[i]
		n += 12 + len(r.Address) + len(r.ORcpt) + len(r.Reply)
	}
	if env.Origin != nil {
		for _, v := range originValues(env.Origin) {
			n += 4 + len(*v)
		}
	}
	return n
}

// decodeEntry reads an entry record. The record is copied once; the envelope's strings are
// pieces of that copy.
func decodeEntry(domain string, rec []byte) (env mail.Envelope, stands bodyPlace, err error) {
	r := reader{rest: string(rec)}
	head := r.take(4)
	if r.bad || !knownEntry(head[0]) {
		return env, 0, fmt.Errorf("%w: entry of unknown version", errRecord)
	}
	flags := head[1]
	stands = bodyPlace(flags & (flagOwn | flagAlone))
	env.Domain = domain
	env.SMTPUTF8 = flags&flagSMTPUTF8 != 0
	env.Stuffed = flags&flagStuffed != 0
	env.EightBit = flags&flagEightBit != 0
	env.InDoubt = flags&flagInDoubt != 0
	env.Body = mail.BodyType(head[2])
	env.Ret = mail.Return(head[3])
	env.ID = mail.ID(r.fixed64())
	env.WireSize = r.size()
	env.Size = r.size()
	env.Attempts = uint32(r.number(math.MaxUint32))
	env.Arrived = int64(r.fixed64())
	env.ReversePath = r.text()
	env.EnvID = r.text()
	env.Client = r.text()
	n := r.number(uint64(len(r.rest) / minRecipient))
	if r.bad || n == 0 || flags&^flagsKnown != 0 || stands == flagOwn|flagAlone || env.Body > mail.Body8BitMIME || env.Ret > mail.ReturnHeaders {
		return mail.Envelope{}, 0, fmt.Errorf("%w: entry", errRecord)
	}
	env.Recipients = make([]mail.Recipient, n)
	for i := range env.Recipients {
		p := &env.Recipients[i]
		p.Address = r.text()
		p.Notify = mail.Notify(r.octet())
		p.ORcpt = r.text()
		p.State = mail.RecipientState(r.octet())
		p.Reply = r.text()
		if p.Notify&^notifyKnown != 0 || p.State > mail.Bounced {
			r.bad = true
		}
	}
	if head[0] == entryVersion2 {
		r.more(&env)
	}
	if r.bad || r.rest != "" {
		return mail.Envelope{}, 0, fmt.Errorf("%w: entry's recipients", errRecord)
	}
	return env, stands, nil
}

func knownEntry(version byte) bool { return version == recordVersion || version == entryVersion2 }

// more reads what an entry record v2 has behind its recipients.
func (r *reader) more(env *mail.Envelope) {
	more := r.octet()
	if more == 0 || more&^moreKnown != 0 {
		r.bad = true
		return
	}
	env.DelayNotified = more&moreDelayNotified != 0
	if more&moreOrigin != 0 {
		env.Origin = new(mail.Origin)
		for _, v := range originValues(env.Origin) {
			*v = r.text()
		}
	}
}

// entryPeek is what of an entry can be had without decoding all of it.
type entryPeek struct {
	id     mail.ID
	size   int64 // of the body
	stands bodyPlace
}

func peekEntry(rec []byte) (p entryPeek, err error) {
	if len(rec) < 13 || !knownEntry(rec[0]) {
		return p, fmt.Errorf("%w: entry of unknown version", errRecord)
	}
	v, n := binary.Uvarint(rec[12:])
	if n <= 0 || v > math.MaxInt64 {
		return p, fmt.Errorf("%w: entry's size", errRecord)
	}
	return entryPeek{id: mail.ID(binary.BigEndian.Uint64(rec[4:])), size: int64(v), stands: bodyPlace(rec[1] & (flagOwn | flagAlone))}, nil
}

// ref is one entry that a body belongs to. The entry may be gone already.
type ref struct {
	domain string
	seq    uint64
}

// bodyHead is what a body record says about a body.
type bodyHead struct {
	size   int64  // octets of all pieces
	chunks uint32 // 0: the body stands in the record itself
	refs   []ref  // at least one; the entries that were made with it
}

func appendBodyHead(dst []byte, h *bodyHead) []byte {
	dst = append(dst, recordVersion)
	dst = binary.AppendUvarint(dst, uint64(h.size))
	dst = binary.AppendUvarint(dst, uint64(h.chunks))
	dst = binary.AppendUvarint(dst, uint64(len(h.refs)))
	for i := range h.refs {
		dst = appendString(dst, h.refs[i].domain)
		dst = binary.BigEndian.AppendUint64(dst, h.refs[i].seq)
	}
	return dst
}

// aloneRecord is the length of the record of a body that stands alone.
func aloneRecord(domain string, size int64) int {
	var buf [512]byte
	return len(appendBodyHead(buf[:0], &bodyHead{size: size, chunks: pieceCount(size), refs: []ref{{domain: domain}}}))
}

// bodyShape is a body record as far as reading the body needs it.
type bodyShape struct {
	size   int64
	chunks uint32
	refs   int    // how many entries were made with it
	record int    // octets of the whole record
	tail   []byte // refs and the octets of a small body, still encoded; aliases the record
}

func decodeBodyShape(rec []byte) (s bodyShape, err error) {
	if len(rec) == 0 || rec[0] != recordVersion {
		return s, fmt.Errorf("%w: body of unknown version", errRecord)
	}
	rest := rec[1:]
	var v [3]uint64
	for i := range v {
		n := 0
		if v[i], n = uvarint(rest); n <= 0 {
			return s, fmt.Errorf("%w: body", errRecord)
		}
		rest = rest[n:]
	}
	if v[0] > math.MaxInt64 || v[1] > math.MaxUint32 || v[2] == 0 || v[2] > uint64(len(rest)/9) {
		return s, fmt.Errorf("%w: body", errRecord)
	}
	return bodyShape{size: int64(v[0]), chunks: uint32(v[1]), refs: int(v[2]), record: len(rec), tail: rest}, nil
}

// decodeBody reads a body record and calls visit, unless nil, for each entry that it names.
// data is the small body in it and aliases rec, as domain does.
func decodeBody(rec []byte, visit func(domain []byte, seq uint64)) (s bodyShape, data []byte, err error) {
	if s, err = decodeBodyShape(rec); err != nil {
		return s, nil, err
	}
	rest := s.tail
	for range s.refs {
		n, w := uvarint(rest)
		if w <= 0 || n == 0 || n > mail.MaxDomain || uint64(len(rest)-w) < n+8 {
			return s, nil, fmt.Errorf("%w: body's entries", errRecord)
		}
		rest = rest[w:]
		if visit != nil {
			visit(rest[:n], binary.BigEndian.Uint64(rest[n:]))
		}
		rest = rest[n+8:]
	}
	want := s.size
	if s.chunks > 0 {
		want = 0
	}
	if int64(len(rest)) != want {
		return s, nil, fmt.Errorf("%w: body of %d octets where %d were stored", errRecord, len(rest), want)
	}
	return s, rest, nil
}

// decodeBodyHead reads all that a body record says, and the small body in it.
func decodeBodyHead(rec []byte) (h bodyHead, data []byte, err error) {
	s, data, err := decodeBody(rec, func(domain []byte, seq uint64) {
		h.refs = append(h.refs, ref{string(domain), seq})
	})
	h.size, h.chunks = s.size, s.chunks
	return h, data, err
}

// ownHead is the length of an own body's record without the body.
const ownHead = 1 + 8

func appendOwnHead(dst []byte, id mail.ID) []byte {
	return binary.BigEndian.AppendUint64(append(dst, recordVersion), uint64(id))
}

// decodeOwn reads the record of an own body; data aliases rec.
func decodeOwn(rec []byte) (id mail.ID, data []byte, err error) {
	if len(rec) < ownHead || len(rec) > ownHead+mail.LastPiece || rec[0] != recordVersion {
		return 0, nil, fmt.Errorf("%w: own body", errRecord)
	}
	return mail.ID(binary.BigEndian.Uint64(rec[1:])), rec[ownHead:], nil
}

func appendNumber(dst []byte, n uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, recordVersion), n)
}

func decodeNumber(rec []byte) (uint64, error) {
	if len(rec) != 9 || rec[0] != recordVersion {
		return 0, fmt.Errorf("%w: number", errRecord)
	}
	return binary.BigEndian.Uint64(rec[1:]), nil
}

// uvarint is binary.Uvarint that refuses a longer form than needed (n < 0).
func uvarint(b []byte) (v uint64, n int) {
	v, n = binary.Uvarint(b)
	if n > 1 && b[n-1] == 0 {
		return 0, -n
	}
	return v, n
}

// reader takes a record apart. After the first fault it is bad and yields zeroes.
type reader struct {
	rest string
	bad  bool
}

func (r *reader) take(n int) string {
	if r.bad || n > len(r.rest) {
		r.bad = true
		return "\x00\x00\x00\x00\x00\x00\x00\x00"[:min(n, 8)]
	}
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}

func (r *reader) octet() byte { return r.take(1)[0] }

func (r *reader) fixed64() uint64 {
	s := r.take(8)
	var v uint64
	for i := 0; i < 8; i++ {
		v = v<<8 | uint64(s[i])
	}
	return v
}

// number reads a varint of at most limit.
func (r *reader) number(limit uint64) uint64 {
	var v uint64
	for i := 0; ; i++ {
		if i == binary.MaxVarintLen64 || i >= len(r.rest) {
			r.bad = true
			return 0
		}
		c := r.rest[i]
		if i == binary.MaxVarintLen64-1 && c > 1 { // more than 64 bits
			r.bad = true
			return 0
		}
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			if c == 0 && i > 0 { // longer than needed
				r.bad = true
			}
			r.rest = r.rest[i+1:]
			break
		}
	}
	if v > limit {
		r.bad = true
		return 0
	}
	return v
}

func (r *reader) size() int64 { return int64(r.number(math.MaxInt64)) }

func (r *reader) text() string {
	n := r.number(uint64(len(r.rest)))
	if r.bad {
		return ""
	}
	return r.take(int(n))
}
