package main

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progressEach is how often a line tells of progress where there is no terminal.
const progressEach = 30 * time.Second

// progress shows how far a command has got: a bar on a terminal, elsewhere a line now and then.
type progress struct {
	what   string
	stderr io.Writer
	now    func() time.Time
	bar    *progressbar.ProgressBar // nil: no terminal
	count  int64
	total  int64
	told   time.Time
}

func newProgress(s *surroundings, what string, total int64) *progress {
	p := &progress{what: what, stderr: s.stderr, now: s.now, total: total, told: s.now()}
	if onTerminal(s.stderr) {
		p.bar = progressbar.NewOptions64(max(total, 1), progressbar.OptionSetDescription(what), progressbar.OptionSetWriter(s.stderr),
			progressbar.OptionShowCount(), progressbar.OptionClearOnFinish())
	}
	return p
}

// add counts one more.
func (p *progress) add(n int64) {
	p.count += n
	if p.bar != nil {
		_ = p.bar.Add64(n)
		return
	}
	if now := p.now(); now.Sub(p.told) >= progressEach {
		p.told = now
		fmt.Fprintf(p.stderr, "%s: %d of %d\n", p.what, p.count, p.total)
	}
}

// done takes the bar away.
func (p *progress) done() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
