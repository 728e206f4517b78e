// Package metrics counts what the server does and shows it in Prometheus' text format.
//
// Metrics is the engine.Observer of a running server, and hears the events of its store and
// its accounts. Every method is quick, takes no lock that an event loop could wait for, and may be
// called from any goroutine. Queue depth is asked of the store when somebody looks.
//
// Names follow Prometheus' conventions: base units (seconds, bytes), counters end in _total, a
// label has few values that are known beforehand. Nothing that a peer can choose (account, domain,
// address) may ever become a label, or a stranger could fill the memory of whoever collects.
package metrics

import (
	"crypto/tls"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"odmr/engine"
	"odmr/queue"
)

// namespace begins the name of every metric of ours.
const namespace = "odmr"

// Codes that are counted by themselves; any other counts as "other".
var (
	atrnCodes = []int{250, 450, 451, 453, 502, 530, 554} // RFC 2645 5.2.1, 7; 554: octets behind ATRN
	authCodes = []int{235, 421, 454, 501, 504, 535}      // RFC 4954 6
)

// durations are the buckets of all histograms of time, in seconds: from a sync on a fast disk to what
// somebody would call an outage.
var durations = []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// Metrics is one server's figures. Make it with New.
type Metrics struct {
	registry *prometheus.Registry

	sessions      [engine.NumStates]prometheus.Gauge
	sessionsBegun [engine.NumStates]prometheus.Counter
	refused       prometheus.Counter
	alarms        prometheus.Counter
	limits        [engine.NumLimits]prometheus.Counter
	atrn, auth    codes
	takeovers     prometheus.Counter
	withdrawn     prometheus.Counter
	messagesIn    [engine.NumOutcomes]prometheus.Counter
	bytesIn       [engine.NumOutcomes]prometheus.Counter
	messagesOut   [engine.NumOutcomes]prometheus.Counter
	bytesOut      [engine.NumOutcomes]prometheus.Counter
	received      prometheus.Counter
	sent          prometheus.Counter
	commit        prometheus.Histogram
	settle        prometheus.Histogram
	settleBatch   prometheus.Histogram
	lag           prometheus.Histogram
	panics        prometheus.Counter
	tlsBegan      map[uint16]prometheus.Counter
	tlsFailed     prometheus.Counter
	tlsSessions   prometheus.Gauge

	store     storeMetrics
	accounts  accountMetrics
	directory directoryMetrics
	reports   reportMetrics
}

var _ engine.Observer = (*Metrics)(nil)

// codes counts reply codes that are known beforehand.
type codes struct {
	known map[int]prometheus.Counter
	other prometheus.Counter
}

func (c *codes) inc(code int) {
	if counter, ok := c.known[code]; ok {
		counter.Inc()
		return
	}
	c.other.Inc()
}

// New makes the metrics of a server. totals says what is queued, at the moment of the call,
// without blocking (queue.Store.Totals); version is shown as a label of odmr_build_info.
func New(version string, totals func() queue.Counts) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		depth{totals},
	)
	info := m.gauges("build_info", "The running build: always 1, with its version as label.", "version", "goversion")
	info.WithLabelValues(version, runtime.Version()).Set(1)
	m.newSessions()
	m.newMessages()
	m.newTLS()
	m.panics = m.counter("panics_recovered_total", "Panics caught, each of which ended one session. Any is a bug: see the log.")
	m.lag = m.histogram("loop_lag_seconds", "How late event loops came to their ticks.", durations)
	m.store = m.newStore()
	m.accounts = m.newAccounts()
	m.reports = m.newReports()
	m.directory = m.newDirectory()
	return m
}

func (m *Metrics) newSessions() {
	open := m.gauges("sessions", "Sessions at present, by where they stand.", "state")
	begun := m.counters("sessions_total", "Sessions begun, by the state they began in.", "state")
	for s := engine.StateNone + 1; s < engine.NumStates; s++ {
		m.sessions[s] = open.WithLabelValues(s.String())
	}
	for _, s := range []engine.State{engine.StateSMTP, engine.StateLMTP, engine.StateLogin} {
		m.sessionsBegun[s] = begun.WithLabelValues(s.String())
	}
	m.refused = m.counter("sessions_refused_total", "Connections turned away with 421 because there were too many.")
	limits := m.counters("limit_hits_total", "Connections and logins turned away, by the limit that they were over.", "limit")
	for l := engine.LimitNone + 1; l < engine.NumLimits; l++ {
		m.limits[l] = limits.WithLabelValues(l.String())
	}
	m.atrn = m.codes("atrn_total", "ATRN commands answered, by reply code (RFC 2645): 250 began to drain, 450 denied, 451 not now, 453 nothing queued.", atrnCodes)
	m.takeovers = m.counter("takeovers_total", "Sessions that made way for a newer one of their customer.")
	m.withdrawn = m.counter("withdrawals_total", "Draining sessions ended because their account was removed, lost a domain or was put on hold.")
	m.auth = m.codes("auth_total", "SASL exchanges ended, by reply code: 235 succeeded, 535 wrong credentials, 454 directory unavailable, 421 over a limit.", authCodes)
	m.received = m.counter("network_receive_bytes_total", "Octets read from sockets, all protocols.")
	m.sent = m.counter("network_transmit_bytes_total", "Octets that sockets took, all protocols.")
}

func (m *Metrics) newMessages() {
	in := m.counters("messages_in_total", "Messages handed in, by what became of them.", "outcome")
	bytesIn := m.counters("messages_in_bytes_total", "Octets of messages handed in, in wire form.", "outcome")
	out := m.counters("messages_out_total", "Deliveries to customers that were settled, by what became of them.", "outcome")
	bytesOut := m.counters("messages_out_bytes_total", "Octets of deliveries that were settled, in wire form.", "outcome")
	for _, o := range []engine.Outcome{engine.Accepted, engine.Refused} {
		m.messagesIn[o], m.bytesIn[o] = in.WithLabelValues(o.String()), bytesIn.WithLabelValues(o.String())
	}
	for _, o := range []engine.Outcome{engine.Delivered, engine.Deferred, engine.Failed, engine.Held} {
		m.messagesOut[o], m.bytesOut[o] = out.WithLabelValues(o.String()), bytesOut.WithLabelValues(o.String())
	}
	m.alarms = m.counter("shield_alarms_total", "Sessions ended because the customer's server refused nearly everything; what it refused is held.")
	m.commit = m.histogram("commit_duration_seconds", "Time until an incoming message was on stable storage.", durations)
	m.settle = m.histogram("settle_duration_seconds", "Time until a batch of outcomes was on stable storage.", durations)
	m.settleBatch = m.histogram("settle_batch_messages", "Messages settled at once.", prometheus.ExponentialBuckets(1, 2, 10))
}

func (m *Metrics) newTLS() {
	began := m.counters("tls_handshakes_total", "TLS handshakes completed, by version.", "version")
	m.tlsBegan = map[uint16]prometheus.Counter{
		tls.VersionTLS12: began.WithLabelValues("1.2"),
		tls.VersionTLS13: began.WithLabelValues("1.3"),
	}
	m.tlsFailed = m.counter("tls_handshakes_failed_total", "TLS handshakes that failed, or that the client did not finish.")
	m.tlsSessions = m.gauge("tls_sessions", "Sessions under TLS at present.")
}

// Handler serves the figures.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// SessionState implements engine.Observer.
func (m *Metrics) SessionState(from, to engine.State) {
	if g := at(m.sessions[:], int(from)); g != nil {
		g.Dec()
	}
	if g := at(m.sessions[:], int(to)); g != nil {
		g.Inc()
	}
	if from == engine.StateNone {
		if c := at(m.sessionsBegun[:], int(to)); c != nil {
			c.Inc()
		}
	}
}

// at returns the i-th metric, or the zero value if there is none.
func at[T any](list []T, i int) (none T) {
	if i < 0 || i >= len(list) {
		return none
	}
	return list[i]
}

// SessionRefused implements engine.Observer.
func (m *Metrics) SessionRefused() { m.refused.Inc() }

// ShieldFired implements engine.Observer.
func (m *Metrics) ShieldFired() { m.alarms.Inc() }

// LimitHit implements engine.Observer.
func (m *Metrics) LimitHit(l engine.Limit) {
	if c := at(m.limits[:], int(l)); c != nil {
		c.Inc()
	}
}

// ATRN implements engine.Observer.
func (m *Metrics) ATRN(code int) { m.atrn.inc(code) }

// Takeover implements engine.Observer.
func (m *Metrics) Takeover() { m.takeovers.Inc() }

// Withdrawn implements engine.Observer.
func (m *Metrics) Withdrawn() { m.withdrawn.Inc() }

// Auth implements engine.Observer.
func (m *Metrics) Auth(code int) { m.auth.inc(code) }

// MessageIn implements engine.Observer.
func (m *Metrics) MessageIn(outcome engine.Outcome, octets int64) {
	count(at(m.messagesIn[:], int(outcome)), at(m.bytesIn[:], int(outcome)), octets)
}

// MessageOut implements engine.Observer.
func (m *Metrics) MessageOut(outcome engine.Outcome, octets int64) {
	count(at(m.messagesOut[:], int(outcome)), at(m.bytesOut[:], int(outcome)), octets)
}

func count(messages, bytes prometheus.Counter, octets int64) {
	if messages == nil {
		return
	}
	messages.Inc()
	bytes.Add(float64(max(0, octets)))
}

// Octets implements engine.Observer.
func (m *Metrics) Octets(in, out int64) {
	m.received.Add(float64(max(0, in)))
	m.sent.Add(float64(max(0, out)))
}

// Commit implements engine.Observer.
func (m *Metrics) Commit(d time.Duration) { m.commit.Observe(d.Seconds()) }

// Settle implements engine.Observer.
func (m *Metrics) Settle(d time.Duration, n int) {
	m.settle.Observe(d.Seconds())
	m.settleBatch.Observe(float64(n))
}

// LoopLag implements engine.Observer.
func (m *Metrics) LoopLag(_ int, d time.Duration) { m.lag.Observe(d.Seconds()) }

// TLSBegan implements engine.Observer.
func (m *Metrics) TLSBegan(version uint16) {
	if c := m.tlsBegan[version]; c != nil {
		c.Inc()
	}
	m.tlsSessions.Inc()
}

// TLSFailed implements engine.Observer.
func (m *Metrics) TLSFailed() { m.tlsFailed.Inc() }

// TLSEnded implements engine.Observer.
func (m *Metrics) TLSEnded() { m.tlsSessions.Dec() }

// Panic implements engine.Observer.
func (m *Metrics) Panic() { m.panics.Inc() }

// Registration, each with the namespace and registered at once.

func (m *Metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	m.registry.MustRegister(c)
	return c
}

func (m *Metrics) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
	m.registry.MustRegister(g)
	return g
}

func (m *Metrics) gauges(name, help string, labels ...string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
	m.registry.MustRegister(g)
	return g
}

func (m *Metrics) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets})
	m.registry.MustRegister(h)
	return h
}

func (m *Metrics) codes(name, help string, known []int) codes {
	vec := m.counters(name, help, "code")
	c := codes{known: map[int]prometheus.Counter{}, other: vec.WithLabelValues("other")}
	for _, code := range known {
		c.known[code] = vec.WithLabelValues(strconv.Itoa(code))
	}
	return c
}
