package main

import (
	"os"
	"time"

	"github.com/rs/zerolog"

	"odmr/internal/admin"
	"odmr/internal/metrics"
	"odmr/queue/pebblestore"
)

// Names of what can make the server not ready.
const (
	condStarting  = "starting"
	condStopping  = "stopping"
	condStall     = "stall"
	condRefusing  = "refusing"
	condDirectory = "directory"
)

// storeEvents brings what the store says to the log, to the metrics and to readiness.
type storeEvents struct {
	log     zerolog.Logger
	sparse  zerolog.Logger // for what comes again as fast as it can
	metrics *metrics.Metrics
	ready   *admin.Conditions
}

// retriesLogged is how many failures of flushes and compactions are logged a minute; on a full disk there are a hundred
// a second, all of them in odmr_store_background_errors_total.
const retriesLogged = 10

func newStoreEvents(log zerolog.Logger, m *metrics.Metrics, ready *admin.Conditions) *storeEvents {
	return &storeEvents{log, log.Sample(&zerolog.BurstSampler{Burst: retriesLogged, Period: time.Minute}), m, ready}
}

var _ pebblestore.Events = (*storeEvents)(nil)

func (e *storeEvents) BackgroundError(err error) {
	e.metrics.BackgroundError(err)
	e.sparse.Error().Err(err).Msg("store: a flush or compaction failed and will be tried again")
}

func (e *storeEvents) Corruption(err error) {
	e.metrics.Corruption(err)
	e.log.Error().Err(err).Msg("store: corruption")
}

func (e *storeEvents) DiskSlow(path string, took time.Duration) {
	e.metrics.DiskSlow(path, took)
	e.log.Warn().Str("file", path).Dur("took_ms", took).Msg("store: the disk is slow")
}

func (e *storeEvents) StallBegan(reason string) {
	e.metrics.StallBegan(reason)
	e.ready.Set(condStall, "writes are held up: "+reason)
	e.log.Warn().Str("reason", reason).Msg("store: writes are held up")
}

func (e *storeEvents) StallEnded() {
	e.metrics.StallEnded()
	e.ready.Clear(condStall)
	e.log.Info().Msg("store: writes go on")
}

func (e *storeEvents) Refusing(reason string) {
	e.metrics.Refusing(reason)
	e.ready.Set(condRefusing, "new mail is refused: "+reason)
	e.log.Error().Str("reason", reason).Msg("store: new mail is refused, draining goes on")
}

func (e *storeEvents) Accepting() {
	e.metrics.Accepting()
	e.ready.Clear(condRefusing)
	e.log.Info().Msg("store: new mail is taken again")
}

// Fatal ends the process: the store can promise nothing any more.
func (e *storeEvents) Fatal(line string) {
	e.log.WithLevel(zerolog.FatalLevel).Msg(line)
	os.Exit(exitFailure)
}
