package bench

import (
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	syncRounds = 400
	syncPiece  = 4096
)

// fdatasync is the median time in microseconds that one fdatasync takes after 4 KiB were appended, with
// nobody else writing.
func (e *Env) fdatasync() (float64, error) {
	file := filepath.Join(e.Dir, "fdatasync")
	f, err := os.Create(file)
	if err != nil {
		return 0, err
	}
	defer os.Remove(file)
	defer discard(f)
	piece := make([]byte, syncPiece)
	times := make([]time.Duration, 0, syncRounds)
	for range syncRounds {
		if _, err := f.Write(piece); err != nil {
			return 0, err
		}
		began := time.Now()
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	return float64(times[len(times)/2].Nanoseconds()) / 1e3, nil
}
