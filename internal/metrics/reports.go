package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"odmr/queue"
)

// reportMetrics count what senders were told, and what became of it.
type reportMetrics struct {
	made, discarded, sent map[string]prometheus.Counter
	unreachable, denied   prometheus.Counter
}

func (m *Metrics) newReports() reportMetrics {
	of := func(name, help, label string, values ...string) map[string]prometheus.Counter {
		vec := m.counters(name, help, label)
		known := make(map[string]prometheus.Counter, len(values))
		for _, v := range values {
			known[v] = vec.WithLabelValues(v)
		}
		return known
	}
	return reportMetrics{
		made: of("reports_total", "Reports to senders that came into being, by what they tell of.", "kind", "failed", "expired", "delayed", "relayed"),
		discarded: of("messages_discarded_total", "Messages that failed or expired and left the queue without a report: it was not asked for, there is no sender (a report on a report), or bounces are off.",
			"reason", "unasked", "no-sender", "bounce-off"),
		sent:        of("reports_out_total", "Reports handed to the smarthost, by its answer.", "outcome", "sent", "deferred", "refused", "unreadable"),
		unreachable: m.counter("smarthost_failures_total", "Connections to the smarthost that failed, at its greeting, TLS or login too."),
		denied:      m.counter("smarthost_denials_total", "Times that the smarthost refused this server as such: a wrong or missing login, MAIL refused. Nothing is sent meanwhile, and nothing dropped."),
	}
}

// inc counts a value that is known; no other ever becomes a label.
func inc(known map[string]prometheus.Counter, value string) {
	if c, ok := known[value]; ok {
		c.Inc()
	}
}

// Reported implements bounce.Observer.
func (m *Metrics) Reported(kind string) { inc(m.reports.made, kind) }

// Discarded implements bounce.Observer.
func (m *Metrics) Discarded(reason string) { inc(m.reports.discarded, reason) }

// Sent implements outbound.Observer.
func (m *Metrics) Sent(outcome string) { inc(m.reports.sent, outcome) }

// Unreachable implements outbound.Observer.
func (m *Metrics) Unreachable() { m.reports.unreachable.Inc() }

// Denied implements outbound.Observer.
func (m *Metrics) Denied() { m.reports.denied.Inc() }

// ShowOutbound adds what waits for the smarthost, asked of counts when somebody looks. It is called once.
func (m *Metrics) ShowOutbound(counts func() queue.Counts) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "outbound_messages", Help: "Reports to senders that wait for the smarthost. They are part of odmr_queue_messages.",
	}, func() float64 { return float64(counts().Messages) }))
}
