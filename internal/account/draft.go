package account

import (
	"errors"
	"fmt"
)

// wordPassword begins the line of an account that is to be added that has its password. No accounts file has one.
const wordPassword = "password"

// Draft is an account that is to be added with others.
type Draft struct {
	Account  *Account
	Line     int    // of its account line, from 1
	Password string // empty: the account has its secrets, or logs in without
}

// ParseDrafts reads accounts that are to be added: text like that of an accounts file, in which each account has a line
// "password TEXT" (the rest of the line), or secrets, or something else to log in by. path is for messages only. The error joins
// up to 20 ParseErrors.
func ParseDrafts(path string, data []byte) ([]Draft, error) {
	p := parser{path: path, drafts: map[*block]*Draft{}}
	doc, err := parse(&p, data)
	if err != nil {
		return nil, err
	}
	all := make([]Draft, 0, len(doc.blocks))
	for _, b := range doc.blocks {
		d := p.drafts[b]
		a := b.account
		stored := a.CRAMMD5 != nil || a.SCRAMSHA256 != nil || a.SCRAMDomain != nil
		switch {
		case d == nil:
			d = new(Draft)
			if !stored && len(a.Certificates) == 0 && len(a.Networks) == 0 {
				p.problemAt(b.line, "account %q has no password, and nothing else to log in by", clip(a.Name))
			}
		case stored:
			p.problemAt(b.line, "account %q has a password and secrets: which of them counts?", clip(a.Name))
		}
		if p.full() {
			break
		}
		d.Account, d.Line = a, b.line
		all = append(all, *d)
	}
	if len(p.problems) > 0 {
		return nil, errors.Join(p.problems...)
	}
	return all, nil
}

// password takes the password of the current account. Errors do not quote it.
func (p *parser) password(text string) {
	if p.drafts[p.cur] != nil {
		p.problem("password is there twice")
		return
	}
	p.drafts[p.cur] = &Draft{Password: text}
	if text == "" {
		p.problem("password needs a value")
	} else if err := CheckPassword(text); err != nil {
		p.problem("%v", err)
	}
}

// AddAll adds all drafts to a document, or none: with their passwords made into secrets, if they have been (see
// Draft.Derive). path is for messages only. The error joins up to 20 ParseErrors; the document is of no more use then.
func (d *Document) AddAll(path string, drafts []Draft) error {
	p := parser{path: path}
	for i := range drafts {
		if err := d.Add(drafts[i].Account); err != nil {
			if p.problemAt(drafts[i].Line, "%v", err); p.full() {
				break
			}
		}
	}
	return errors.Join(p.problems...)
}

// Derive makes the secrets of a draft that has a password. It takes some milliseconds.
func (d *Draft) Derive() error {
	if d.Password == "" {
		return nil
	}
	a, err := d.Account.WithPassword(d.Password)
	if err != nil {
		return fmt.Errorf("account %q: %w", clip(d.Account.Name), err)
	}
	d.Account, d.Password = a, ""
	return nil
}
