package letters

import (
	"bytes"
	"hash/crc32"
	"strconv"
)

// maxHead is how far into a message its marker line may stand: behind the fields that the server
// adds in front.
const maxHead = 8 << 10

// Judge looks at one message's plain content as it passes by. The zero value stands at its start.
type Judge struct {
	head []byte // content up to the marker line, while that is not complete
	id   uint64
	size uint64 // octets announced
	want uint32
	sum  uint32 // over the octets behind the marker line
	seen uint64
	line []byte // number and size as they stood in the line
	stop bool   // no marker line where one must be
	in   bool   // behind the marker line
}

// Write looks at the next piece of the content; pieces may be cut anywhere.
func (j *Judge) Write(p []byte) {
	if j.in {
		j.sum = crc32.Update(j.sum, castagnoli, p)
		j.seen += uint64(len(p))
		return
	}
	if j.stop {
		return
	}
	whole := p
	if len(j.head) > 0 {
		j.head = append(j.head, p...)
		whole = j.head
	}
	at, ok := j.open(whole)
	switch {
	case ok:
		j.in = true
		j.Write(whole[at:])
		j.head = j.head[:0]
	case len(whole) > maxHead:
		j.stop = true
		j.head = j.head[:0]
	case len(j.head) == 0:
		j.head = append(j.head, p...)
	}
}

// open reads the marker line and says where it ends.
func (j *Judge) open(b []byte) (int, bool) {
	at := bytes.Index(b, []byte(marker))
	if at < 0 || len(b)-at < markerLen {
		return 0, false
	}
	line := b[at : at+markerLen]
	fields := line[len(marker):]
	var errs [3]error
	var sum uint64
	j.id, errs[0] = strconv.ParseUint(string(fields[:16]), 16, 64)
	j.size, errs[1] = strconv.ParseUint(string(fields[17:25]), 16, 64)
	sum, errs[2] = strconv.ParseUint(string(fields[26:34]), 16, 64)
	if errs != [3]error{} || at > 0 && b[at-1] != '\n' || string(fields[34:]) != "\r\n" {
		return 0, false
	}
	j.want = uint32(sum)
	j.line = append(j.line[:0], fields[:25]...)
	return at + markerLen, true
}

// End says which message it was. intact is false where the hash or the size is not what the
// first line says; known is false where there is no such line.
func (j *Judge) End() (id uint64, intact, known bool) {
	if !j.in {
		return 0, false, false
	}
	sum := crc32.Update(j.sum, castagnoli, j.line)
	return j.id, sum == j.want && j.seen == j.size, true
}

// Reset prepares j for another message.
func (j *Judge) Reset() {
	j.head, j.line = j.head[:0], j.line[:0]
	j.id, j.size, j.want, j.sum, j.seen = 0, 0, 0, 0, 0
	j.stop, j.in = false, false
}
