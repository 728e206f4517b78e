package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ShowCertificates adds when the first of the server's certificates ends, asked of ends when somebody looks. It is
// called once, by a server that has certificates.
func (m *Metrics) ShowCertificates(ends func() time.Time) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace, Name: "tls_certificate_expiry_timestamp_seconds",
		Help: "When the first of the server's certificates in effect ends, in seconds since 1970.",
	}, func() float64 { return float64(ends().Unix()) }))
}
