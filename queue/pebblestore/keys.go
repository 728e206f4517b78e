package pebblestore

import (
	"encoding/binary"
	"strings"

	"odmr/internal/mail"
)

// Key layout. The first octet is the key space; numbers are big-endian, so that the order
// of keys is the order of numbers; a domain ends with NUL, which no domain contains, so that the
// order of keys is the order of domains.
//
//	b ID                 body record of a message that is large or for several domains: size, number of
//	                     pieces, who refers to it; a small body itself
//	c ID CHUNK           one piece of a large body (CHUNK: 4 octets from 0)
//	d DOMAIN 00 SEQ      own body: the body of a message for one domain that is small (nearly all are): see piecesFrom
//	e DOMAIN 00 SEQ      entry: the envelope of a message that has a pending recipient
//	f DOMAIN 00 SEQ      entry with nothing left to deliver, kept for the report on it: failed, or delivered to who sends none
//	h DOMAIN 00 SEQ      entry with nothing left to deliver, and a held recipient that an operator decides about
//	i STAMP              a message with that stamp has come in: when
//	m NAME               facts about the store: format, sequence
//	r DOMAIN 00 SEQ      mark beside an entry in e or h, as long as its sender is yet to be told of some recipient (mail.Untold)
//
// ID and SEQ are 8 octets and come from one counter (see sequence). An entry's SEQ is greater than its ID, by as
// much as the message took to come in.
//
// Own bodies have the order of the entries, so that what one session will read stands in a row: one block
// read, or one run of a memtable, serves many messages. Under ID (as others stand) neighbours belong to other
// customers, and each message costs a block of its own. They stand in a space of their own, and not
// between the entries, so that a scan over entries (Open, List) does not walk over mail.
const (
	spaceBody   = 'b'
	spaceChunk  = 'c'
	spaceOwn    = 'd'
	spaceEntry  = 'e'
	spaceFailed = 'f'
	spaceHeld   = 'h'
	spaceStamp  = 'i'
	spaceMeta   = 'm'
	spaceUntold = 'r'
)

// entrySpaces are those in which an entry may stand; it stands in one of them.
var entrySpaces = [...]byte{spaceEntry, spaceFailed, spaceHeld}

var (
	keyFormat   = []byte("mformat")
	keySequence = []byte("msequence")
)

const (
	bodyKeyLen  = 1 + 8
	chunkKeyLen = 1 + 8 + 4
)

func appendBodyKey(dst []byte, id mail.ID) []byte {
	return binary.BigEndian.AppendUint64(append(dst, spaceBody), uint64(id))
}

func appendChunkKey(dst []byte, id mail.ID, chunk uint32) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, spaceChunk), uint64(id))
	return binary.BigEndian.AppendUint32(dst, chunk)
}

func appendEntryKey(dst []byte, space byte, domain string, seq uint64) []byte {
	dst = append(dst, space)
	dst = append(dst, domain...)
	dst = append(dst, 0)
	return binary.BigEndian.AppendUint64(dst, seq)
}

func entryKeyLen(domain string) int { return 1 + len(domain) + 1 + 8 }

func parseBodyKey(k []byte) (mail.ID, bool) {
	if len(k) != bodyKeyLen || k[0] != spaceBody {
		return 0, false
	}
	return mail.ID(binary.BigEndian.Uint64(k[1:])), true
}

func parseChunkKey(k []byte) (id mail.ID, chunk uint32, ok bool) {
	if len(k) != chunkKeyLen || k[0] != spaceChunk {
		return 0, 0, false
	}
	return mail.ID(binary.BigEndian.Uint64(k[1:])), binary.BigEndian.Uint32(k[9:]), true
}

// parseEntryKey takes an entry's key apart; domain aliases k.
func parseEntryKey(k []byte, space byte) (domain []byte, seq uint64, ok bool) {
	if len(k) < 1+1+1+8 || k[0] != space || k[len(k)-9] != 0 {
		return nil, 0, false
	}
	domain = k[1 : len(k)-9]
	if len(domain) > mail.MaxDomain {
		return nil, 0, false
	}
	return domain, binary.BigEndian.Uint64(k[len(k)-8:]), true
}

// validDomain says whether domain can stand in a key. What a domain may look like beyond
// that is codec's business.
func validDomain(domain string) bool {
	return domain != "" && len(domain) <= mail.MaxDomain && !strings.ContainsAny(domain, "\x00\x01")
}
