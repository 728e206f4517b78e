package sim

import "fmt"

// party is one end of a line.
type party interface {
	// arrived says that there are octets in the inbox, more than before.
	arrived()
	// room says that the other side took something: more may be written.
	room()
	// lost says that nothing comes any more: the other side has closed, or, with reset, the line broke.
	lost(reset bool)
}

// breach is how a line ends before its time.
type breach uint8

const (
	breakFIN    breach = iota // the client's program ends: the server reads what was sent, then the end
	breakRST                  // what is on its way to the server is lost, too
	breakSilent               // the client is gone, and the server is not told
	breaches
)

func (b breach) String() string { return [...]string{"FIN", "RST", "silence"}[b] }

// line is one TCP connection between a client and the server.
type line struct {
	w              *world
	id             int
	up, down       pipe // from the client to the server and back
	client, server party
	broken         bool

	cut struct { // a break that is to come
		on   *pipe // nil: none
		at   int64 // once so many octets have arrived there
		kind breach
	}
}

// pipe is one direction of a line.
type pipe struct {
	line     *line
	from, to party
	flying   []byte
	inbox    []byte // arrived, and not consumed
	window   int    // octets of both together at the most
	passed   int64  // octets that have arrived
	moving   bool   // an event will move octets
	asked    bool   // an event will call room
	fin      bool   // the sender has closed: lost follows what is flying
	dead     bool   // nothing arrives any more
}

func newLine(w *world, id int, client, server party) *line {
	l := &line{w: w, id: id, client: client, server: server}
	window := []int{512, 4 << 10, 64 << 10, 64 << 10}[w.rng.IntN(4)]
	l.up = pipe{line: l, from: client, to: server, window: 64 << 10}
	l.down = pipe{line: l, from: server, to: client, window: window}
	return l
}

func (l *line) String() string { return fmt.Sprintf("line%d", l.id) }

// breakAt plans a break once n more octets have arrived in that direction.
func (l *line) breakAt(p *pipe, n int64, kind breach) {
	l.cut.on, l.cut.at, l.cut.kind = p, p.passed+n, kind
}

// write sends as much of b as there is room for, and says how much that was.
func (p *pipe) write(b []byte) int {
	if p.fin {
		return 0
	}
	n := max(0, min(len(b), p.window-len(p.flying)-len(p.inbox)))
	if n == 0 {
		return 0
	}
	p.flying = append(p.flying, b[:n]...)
	p.move()
	return n
}

// close ends this direction behind what was written.
func (p *pipe) close() {
	if !p.fin {
		p.fin = true
		p.move()
	}
}

func (p *pipe) move() {
	if p.moving || p.dead {
		return
	}
	p.moving = true
	p.line.w.after(p.line.w.soon(), p.arrive)
}

// arrive brings some of what is flying to the receiver.
func (p *pipe) arrive() {
	p.moving = false
	l := p.line
	if p.dead {
		return
	}
	n := len(p.flying)
	switch {
	case n > 1 && l.w.chance(4):
		n = l.w.between(1, n)
	case n > 1 && l.w.chance(20):
		n = 1
	}
	struck := false
	if l.cut.on == p && p.passed+int64(n) >= l.cut.at {
		n, struck = int(max(l.cut.at-p.passed, 0)), true
	}
	p.inbox = append(p.inbox, p.flying[:n]...)
	p.flying = p.flying[n:]
	p.passed += int64(n)
	if n > 0 {
		p.to.arrived()
	}
	switch {
	case struck:
		l.strike(l.cut.kind)
	case len(p.flying) > 0:
		p.move()
	case p.fin && !p.dead:
		p.dead = true
		p.to.lost(false)
	}
}

// take consumes n octets of the inbox.
func (p *pipe) take(n int) {
	p.inbox = p.inbox[n:]
	if p.asked || p.dead || n == 0 {
		return
	}
	p.asked = true
	p.line.w.after(p.line.w.soon(), func() {
		p.asked = false
		if !p.dead {
			p.from.room()
		}
	})
}

// strike breaks the line in the client's way: its program is gone. The client hears of it at once.
func (l *line) strike(kind breach) {
	if l.broken {
		return
	}
	l.broken = true
	l.cut.on = nil
	l.w.trace("%v breaks by %v", l, kind)
	l.w.meet("a line broken by " + kind.String())
	l.down.dead = true
	switch kind {
	case breakFIN:
		l.up.close()
	case breakRST:
		l.up.dead = true
		l.w.after(l.w.soon(), func() { l.server.lost(true) })
	case breakSilent:
		l.up.dead = true
	}
	l.client.lost(true)
}

// hangUp is the client's orderly end.
func (l *line) hangUp() {
	if l.broken {
		return
	}
	l.broken = true
	l.cut.on = nil
	l.down.dead = true
	l.up.close()
}

// shut is the server's end: what it wrote goes out before.
func (l *line) shut() {
	l.up.dead = true
	l.down.close()
}

// killed is the end of the server. What its kernel had to send may arrive yet.
func (l *line) killed(power bool) {
	l.up.dead = true
	switch {
	case !power && l.w.chance(2):
		l.down.close()
	case l.down.dead:
	default:
		l.down.dead = true
		l.w.after(l.w.soon(), func() { l.client.lost(true) })
	}
}
