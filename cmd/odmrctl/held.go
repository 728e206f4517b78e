package main

import (
	"bufio"
	"errors"
	"fmt"
	"slices"

	"odmr/internal/admin"
	"odmr/internal/mail"
	"odmr/queue"
)

type queueHeld struct {
	Domain string `placeholder:"DOMAIN" help:"Only what is held of this domain's."`
	JSON   bool   `name:"json" help:"Write JSON, a line for each message: ${message_form}."`
}

func (queueHeld) Help() string {
	return `A customer's server that refuses nearly everything is likely to be broken, so what it refused is held and not bounced.
Once it is in order again, release; if the refusals were meant, bounce.

Examples:
  odmrctl --data DIR queue held
  odmrctl --data DIR queue release --domain example.org --all
  odmrctl --data DIR queue bounce 03c5rz0m7s8ke`
}

func (a *queueHeld) Run(c *cli, s *surroundings) error {
	domain, err := domainArgument(a.Domain)
	if err != nil {
		return err
	}
	return c.withQueue(s, func(q queue.Admin, out *bufio.Writer) error {
		var count, octets int64
		now := s.now()
		err := eachHeld(q, domain, func(e queue.Entry) bool {
			count++
			octets += e.Envelope.WireSize
			if a.JSON {
				return writeLine(out, admin.NewMessage(&e))
			}
			return writeEntry(out, &e, now) == nil
		})
		if err == nil && !a.JSON {
			fmt.Fprintf(out, "%s, %s\n", plural(count, "message"), sizeText(octets))
		}
		return err
	})
}

// eachHeld calls fn for every entry of domain with a held recipient.
func eachHeld(q queue.Admin, domain string, fn func(queue.Entry) bool) error {
	return q.List(domain, func(e queue.Entry) bool {
		if !slices.ContainsFunc(e.Envelope.Recipients, func(r mail.Recipient) bool { return r.State == mail.Held }) {
			return true
		}
		return fn(e)
	})
}

// heldChoice names held messages.
type heldChoice struct {
	IDs    []string `arg:"" optional:"" name:"id" help:"Queue ids."`
	Domain string   `placeholder:"DOMAIN" help:"In this domain's queue only; a message may be in several."`
	All    bool     `help:"All that is held, of the domain if one is given."`
}

type queueRelease struct {
	heldChoice `embed:""`
}

func (a *queueRelease) Run(c *cli, s *surroundings) error {
	return a.decide(c, s, "released", queue.Admin.Release)
}

type queueBounce struct {
	heldChoice `embed:""`
}

func (a *queueBounce) Run(c *cli, s *surroundings) error {
	return a.decide(c, s, "failed", queue.Admin.Bounce)
}

// decide calls how for each message that is chosen; done says what became of it.
func (a *heldChoice) decide(c *cli, s *surroundings, done string, how func(queue.Admin, string, mail.ID) (int, error)) error {
	domain, err := domainArgument(a.Domain)
	if err != nil {
		return err
	}
	if a.All == (len(a.IDs) > 0) {
		return usageError("give queue ids, or --all")
	}
	ids, err := idArguments(a.IDs)
	if err != nil {
		return err
	}
	return c.withQueue(s, func(q queue.Admin, out *bufio.Writer) error {
		if a.All {
			seen := map[mail.ID]bool{} // a message may be held in several domains
			if err := eachHeld(q, domain, func(e queue.Entry) bool {
				if id := e.Envelope.ID; !seen[id] {
					seen[id] = true
					ids = append(ids, id)
				}
				return true
			}); err != nil {
				return err
			}
		}
		var failed []error
		var n int64
		for _, id := range ids {
			switch k, err := how(q, domain, id); {
			case errors.Is(err, queue.ErrNotFound) && a.All: // somebody else was faster
			case errors.Is(err, queue.ErrNotFound):
				failed = append(failed, fmt.Errorf("%s: nothing is held under this id", id))
			case err != nil:
				failed = append(failed, fmt.Errorf("%s: %w", id, err))
			case !a.All:
				n++
				fmt.Fprintf(out, "%s %s in %s\n", id, done, plural(int64(k), "queue"))
			default:
				n++
			}
		}
		if a.All {
			fmt.Fprintf(out, "%s %s\n", plural(n, "message"), done)
		}
		return errors.Join(failed...)
	})
}
