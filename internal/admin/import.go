package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
)

// Ask says what would become of letters, if they were brought in now: an Answer for each, in order.
func (c *Client) Ask(ctx context.Context, letters []Letter) ([]Answer, error) {
	var body bytes.Buffer
	for i := range letters {
		if err := json.NewEncoder(&body).Encode(&letters[i]); err != nil {
			return nil, err
		}
	}
	resp, err := c.requestWith(ctx, http.MethodPost, url.URL{Path: "/import/ask"}, &body)
	if err != nil {
		return nil, err
	}
	var answers []Answer
	err = lines(ctx, resp, func(l *line) bool {
		if l.Answer != nil {
			answers = append(answers, *l.Answer)
		}
		return true
	})
	if err == nil && len(answers) != len(letters) {
		err = fmt.Errorf("%w: %d answers to %d letters", errBroken, len(answers), len(letters))
	}
	return answers, err
}

// Import is letters on their way to a running server. Send and Close are called by one goroutine.
type Import struct {
	cancel context.CancelFunc
	pipe   *io.PipeWriter
	out    *bufio.Writer
	piece  []byte
	end    sync.WaitGroup
	err    error // once end is over
}

// Import begins to bring letters in. answered is told what became of each, as it becomes durable, on another goroutine. Close must
// be called.
func (c *Client) Import(ctx context.Context, answered func(*Answer)) *Import {
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	i := &Import{cancel: cancel, pipe: w, out: bufio.NewWriterSize(w, maxPiece+frameHead), piece: make([]byte, maxPiece)}
	i.end.Go(func() {
		i.err = c.receive(ctx, r, answered)
		r.CloseWithError(ErrEnded)
	})
	return i
}

func (c *Client) receive(ctx context.Context, r io.Reader, answered func(*Answer)) error {
	resp, err := c.requestWith(ctx, http.MethodPost, url.URL{Path: "/import"}, r)
	if err != nil {
		return err
	}
	return lines(ctx, resp, func(l *line) bool {
		if l.Answer != nil {
			answered(l.Answer)
		}
		return true
	})
}

// Send sends the next letter, perhaps only when more follow or at Close; the first is number 0 in its Answer. It blocks while the server cannot keep up. An error of
// content gives the letter up, and is returned; its number is used up, and there is no answer. ErrEnded says that the import is over.
func (i *Import) Send(l *Letter, content io.Reader) error {
	head, err := json.Marshal(l)
	if err != nil {
		return err
	}
	if err := i.frame(frameLetter, head); err != nil {
		return err
	}
	for {
		n, err := content.Read(i.piece)
		if n > 0 {
			if err := i.frame(frameData, i.piece[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			return i.frame(frameEnd, nil)
		default:
			return errors.Join(err, i.frame(frameGiveUp, nil))
		}
	}
}

// Skip uses up a number, as Send does, for a letter that is not sent after all.
func (i *Import) Skip() error {
	return i.frame(frameGiveUp, nil)
}

func (i *Import) frame(kind byte, data []byte) error {
	var head [frameHead]byte
	head[0] = kind
	binary.BigEndian.PutUint32(head[1:], uint32(len(data)))
	_, err := i.out.Write(head[:])
	if err == nil {
		_, err = i.out.Write(data)
	}
	return err
}

// ErrEnded says that the server has ended an import.
var ErrEnded = errors.New("admin: the server takes no more")

// Close waits for the answers to all letters sent, and returns why the import ended before, if it did.
func (i *Import) Close() error {
	err := i.out.Flush()
	i.pipe.Close()
	i.end.Wait()
	i.cancel()
	if i.err != nil {
		return i.err
	}
	return err
}
