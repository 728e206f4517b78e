package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"odmr/queue"
)

// depth shows the queue's totals, all from one look so that they belong together.
type depth struct{ totals func() queue.Counts }

var (
	depthMessages = prometheus.NewDesc(namespace+"_queue_messages", "Messages that wait for customers, once per customer domain.", nil, nil)
	depthBytes    = prometheus.NewDesc(namespace+"_queue_bytes", "Octets of the messages that wait for customers, in wire form.", nil, nil)
	depthHeld     = prometheus.NewDesc(namespace+"_queue_held_messages", "Messages that the bounce shield holds until an operator decides: odmrctl queue held.", nil, nil)
	depthFailed   = prometheus.NewDesc(namespace+"_queue_failed_messages", "Messages that customers refused for good, kept for their bounces.", nil, nil)
)

// Describe implements prometheus.Collector.
func (d depth) Describe(ch chan<- *prometheus.Desc) {
	ch <- depthMessages
	ch <- depthBytes
	ch <- depthFailed
	ch <- depthHeld
}

// Collect implements prometheus.Collector.
func (d depth) Collect(ch chan<- prometheus.Metric) {
	c := d.totals()
	ch <- prometheus.MustNewConstMetric(depthMessages, prometheus.GaugeValue, float64(c.Messages))
	ch <- prometheus.MustNewConstMetric(depthBytes, prometheus.GaugeValue, float64(c.Bytes))
	ch <- prometheus.MustNewConstMetric(depthFailed, prometheus.GaugeValue, float64(c.Failed))
	ch <- prometheus.MustNewConstMetric(depthHeld, prometheus.GaugeValue, float64(c.Held))
}

// storeMetrics are what the store tells about itself.
type storeMetrics struct {
	errors, corruptions, slow, stalls prometheus.Counter
	stalled, refusing                 prometheus.Gauge
}

func (m *Metrics) newStore() storeMetrics {
	return storeMetrics{
		errors:      m.counter("store_background_errors_total", "Flushes and compactions that failed; the store tries them again by itself."),
		corruptions: m.counter("store_corruptions_total", "Records, blocks or files that did not hold what was written. Any is a reason to look at the disk."),
		slow:        m.counter("store_disk_slow_total", "Writes and syncs that took longer than 5 seconds."),
		stalls:      m.counter("store_stalls_total", "Times that writes were held up by flushes or compactions."),
		stalled:     m.gauge("store_stalled", "1 while writes are held up by flushes or compactions."),
		refusing:    m.gauge("store_refusing", "1 while new mail is refused with 452: disk full, or compactions behind."),
	}
}

// BackgroundError counts a failed flush or compaction.
func (m *Metrics) BackgroundError(error) { m.store.errors.Inc() }

// Corruption counts something that the store could not read back.
func (m *Metrics) Corruption(error) { m.store.corruptions.Inc() }

// DiskSlow counts a slow write or sync.
func (m *Metrics) DiskSlow(string, time.Duration) { m.store.slow.Inc() }

// StallBegan counts a stall and shows it until StallEnded.
func (m *Metrics) StallBegan(string) {
	m.store.stalls.Inc()
	m.store.stalled.Set(1)
}

// StallEnded ends what StallBegan began.
func (m *Metrics) StallEnded() { m.store.stalled.Set(0) }

// Refusing shows that new mail is refused, until Accepting.
func (m *Metrics) Refusing(string) { m.store.refusing.Set(1) }

// Accepting ends what Refusing began.
func (m *Metrics) Accepting() { m.store.refusing.Set(0) }

// accountMetrics are about the accounts file.
type accountMetrics struct {
	accounts, domains prometheus.Gauge
	read, failed      prometheus.Counter
}

func (m *Metrics) newAccounts() accountMetrics {
	reads := m.counters("accounts_reads_total", "Readings of the accounts file; a broken file leaves the old accounts in effect.", "result")
	return accountMetrics{
		accounts: m.gauge("accounts", "Accounts in effect."),
		domains:  m.gauge("account_domains", "Domains that some account may collect."),
		read:     reads.WithLabelValues("ok"),
		failed:   reads.WithLabelValues("broken"),
	}
}

// AccountsRead says that the accounts file was read, or that it was broken (err), and how many
// accounts and domains are in effect since.
func (m *Metrics) AccountsRead(err error, accounts, domains int) {
	if err != nil {
		m.accounts.failed.Inc()
	} else {
		m.accounts.read.Inc()
	}
	m.accounts.accounts.Set(float64(accounts))
	m.accounts.domains.Set(float64(domains))
}
