package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// directoryMetrics are about accounts in a database or a directory service.
type directoryMetrics struct {
	up       prometheus.Gauge
	refuses  prometheus.Gauge
	answers  *prometheus.CounterVec
	queries  prometheus.Histogram
	failed   *prometheus.CounterVec
	unusable prometheus.Counter
}

func (m *Metrics) newDirectory() directoryMetrics {
	d := directoryMetrics{
		up:       m.gauge("directory_up", "1 while the database or directory of the accounts answers, 0 while it does not or where there is none."),
		refuses:  m.gauge("directory_refuses", "1 while the database or directory of the accounts refuses this server as such (its login, its rights, its queries), 0 while it does not, or is down."),
		answers:  m.counters("directory_answers_total", "Questions about accounts and domains, by where the answer came from: memory, directory, stale (from memory, the directory being down), unanswered.", "from"),
		queries:  m.histogram("directory_query_duration_seconds", "Time that lookups in the database or directory took, failed ones too.", durations),
		failed:   m.counters("directory_query_failures_total", "Lookups that failed, by why: down (not answered, or not in time), refused (the database or directory refuses this server: its login, its rights, its queries).", "why"),
		unusable: m.counter("directory_unusable_records_total", "Lookups that met a record that cannot be used: a bad domain or secret, a domain of two accounts. The log says which."),
	}
	for _, why := range []string{"down", "refused"} {
		d.failed.WithLabelValues(why)
	}
	return d
}

// DirectoryAnswered counts an answer, by where it came from.
func (m *Metrics) DirectoryAnswered(from string) { m.directory.answers.WithLabelValues(from).Inc() }

// DirectoryQueried counts a lookup in the database or directory, and why it failed, if it did: "down" or "refused", else "".
func (m *Metrics) DirectoryQueried(took time.Duration, why string) {
	m.directory.queries.Observe(took.Seconds())
	if why != "" {
		m.directory.failed.WithLabelValues(why).Inc()
	}
}

// DirectoryUp says that the database or directory answers, DirectoryDown that it does not, DirectoryRefuses that it does not serve us.
func (m *Metrics) DirectoryUp() {
	m.directory.up.Set(1)
	m.directory.refuses.Set(0)
}

// DirectoryDown is one of DirectoryUp's opposites.
func (m *Metrics) DirectoryDown() {
	m.directory.up.Set(0)
	m.directory.refuses.Set(0)
}

// DirectoryRefuses is the other.
func (m *Metrics) DirectoryRefuses() {
	m.directory.up.Set(0)
	m.directory.refuses.Set(1)
}

// DirectoryUnusable counts a record that cannot be used.
func (m *Metrics) DirectoryUnusable() { m.directory.unusable.Inc() }
