package session

import "time"

// RateWindow is the default of IngressConfig.RateWindow: long enough for a line that is lost for a while and a retransmission timer that has
// grown to a minute (RFC 6298) not to count.
const RateWindow = 5 * time.Minute

// ingressPace is how much content came since when.
type ingressPace struct {
	since  Time
	octets int64
}

// paced ends a session that sends its content too slowly: each octet in time, and the message never. Where it had to wait for us the
// window begins anew. A message that is whole now is taken, however late: its client would only send it again.
func (s *Ingress) paced(n int, out *Output) {
	p, window := &s.pace, Time(s.cfg.RateWindow)
	p.octets += int64(n)
	whole := !s.chunk.reading && (s.tx == nil || s.tx.complete)
	if s.cfg.LeastRate <= 0 || s.closed || whole || s.now-p.since < window {
		return
	}
	if len(s.commits.list) > 0 { // it is the disk that is slow; their replies come first
		*p = ingressPace{since: s.now}
		return
	}
	if float64(p.octets) < float64(s.cfg.LeastRate)*s.cfg.RateWindow.Seconds() {
		s.end(out, replyTooSlow, ReasonTooSlow)
		return
	}
	*p = ingressPace{since: s.now}
}
