package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// directoryMetrics are about accounts in a database or a directory service.
type directoryMetrics struct {
	up               prometheus.Gauge
	answers          *prometheus.CounterVec
	queries          prometheus.Histogram
	failed, unusable prometheus.Counter
}

func (m *Metrics) newDirectory() directoryMetrics {
	return directoryMetrics{
		up:       m.gauge("directory_up", "1 while the database or directory of the accounts answers, 0 while it does not or where there is none."),
		answers:  m.counters("directory_answers_total", "Questions about accounts and domains, by where the answer came from: memory, directory, stale (from memory, the directory being down), unanswered.", "from"),
		queries:  m.histogram("directory_query_duration_seconds", "Time that lookups in the database or directory took, failed ones too.", durations),
		failed:   m.counter("directory_query_failures_total", "Lookups that failed or were not answered in time."),
		unusable: m.counter("directory_unusable_records_total", "Lookups that met a record that cannot be used: a bad domain or secret, a domain of two accounts. The log says which."),
	}
}

// DirectoryAnswered counts an answer, by where it came from.
func (m *Metrics) DirectoryAnswered(from string) { m.directory.answers.WithLabelValues(from).Inc() }

// DirectoryQueried counts a lookup in the database or directory.
func (m *Metrics) DirectoryQueried(took time.Duration, err error) {
	m.directory.queries.Observe(took.Seconds())
	if err != nil {
		m.directory.failed.Inc()
	}
}

// DirectoryUp says that the database or directory answers, DirectoryDown that it does not.
func (m *Metrics) DirectoryUp() { m.directory.up.Set(1) }

// DirectoryDown is DirectoryUp's opposite.
func (m *Metrics) DirectoryDown() { m.directory.up.Set(0) }

// DirectoryUnusable counts a record that cannot be used.
func (m *Metrics) DirectoryUnusable() { m.directory.unusable.Inc() }
