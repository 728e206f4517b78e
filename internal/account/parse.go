package account

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"
)

// The accounts file is lines of a keyword and its values:
//
//	# comment: the whole line, kept by odmrctl
//	account example-gmbh
//	  domain example.org
//	  domain example.com
//	  own-hostname
//	  retention 5d
//	  cert-email tim@example.org
//	  cert-dns gateway.example.org
//	  cert-cn Example GmbH
//	  cert-sha256 FINGERPRINT
//	  network 192.0.2.32/29
//	  recipient tim@example.org anna@example.org
//	  cram-md5 INNER OUTER
//	  scram-sha-256 ITERATIONS SALT STORED-KEY SERVER-KEY
//	  scram-sha-256-domain ITERATIONS SALT STORED-KEY SERVER-KEY
//
// "account" begins an account, whose name is the rest of the line (blanks inside are part of
// it); all other lines belong to the account above them. "domain" takes one or more domains
// and may be repeated; it is the only line that an account must have. A "cert-" line is a property of client
// certificates and may be repeated; that of cert-cn is the rest of the line. "network" takes one or
// more. retention and its like are the settings of a Policy, one value each. Secrets and salt are base64 (RFC 4648 4). Blanks and tabs before, between and behind the words do not matter.

// maxProblems is how many problems of one file are reported at once.
const maxProblems = 20

// A ParseError is one problem of an accounts file. It never quotes a secret.
type ParseError struct {
	Path   string
	Line   int // from 1
	Reason string
}

func (e *ParseError) Error() string { return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Reason) }

// Document is the content of an accounts file, for editing: accounts in the order of the
// file, comments included. It belongs to one goroutine.
type Document struct {
	blocks []*block
	tail   []byte // comments behind the last account
	names  map[string]*block
	owners map[string]*block // by domain
	certs  map[Certificate]*block
	nets   map[netip.Prefix]*block
}

// block is one account and the text that it came from. The text of an account that was not
// changed is written back octet for octet.
type block struct {
	account *Account
	line    int
	lead    []byte   // comments and blank lines before the account line
	body    []byte   // from the account line to the last line that is no comment; nil once changed
	notes   []string // comment lines inside body, kept when it is written anew
}

// Parse reads an accounts file. path is for messages only. The error joins up to 20 ParseErrors.
func Parse(path string, data []byte) (*Document, error) {
	return parse(&parser{path: path}, data)
}

func parse(p *parser, data []byte) (*Document, error) {
	p.doc = newDocument(bytes.Count(data, []byte("\n")) / 4)
	pos, pending := 0, 0 // pending is where the comments begin that belong to what comes next
	for pos < len(data) && !p.full() {
		line, next := data[pos:], len(data)
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line, next = line[:i], pos+i+1
		}
		p.line++
		keyword, rest := split(line)
		switch {
		case len(keyword) == 0:
		case keyword[0] == '#':
			if p.cur != nil {
				p.comments = append(p.comments, string(bytes.TrimRight(line, " \t\r")))
			}
		case !utf8.Valid(line):
			p.problem("not valid UTF-8")
			p.domains = true // perhaps
		case string(keyword) == "account":
			p.comments = p.comments[:0]
			p.begin(string(rest), data[pending:pos])
			p.start, pending = pos, next
		default:
			p.field(string(keyword), rest)
			pending = next
		}
		if p.cur != nil && pending == next { // the line was not a comment
			p.cur.body = data[p.start:next]
			p.cur.notes = append(p.cur.notes, p.comments...)
			p.comments = p.comments[:0]
		}
		pos = next
	}
	p.finish()
	if len(p.problems) > 0 {
		return nil, errors.Join(p.problems...)
	}
	p.doc.tail = data[pending:]
	return p.doc, nil
}

func newDocument(size int) *Document {
	return &Document{
		names: make(map[string]*block, size), owners: make(map[string]*block, size),
		certs: map[Certificate]*block{}, nets: map[netip.Prefix]*block{},
	}
}

// split cuts the first word off line; rest has no blanks around it.
func split(line []byte) (word, rest []byte) {
	line = bytes.Trim(line, " \t\r")
	i := bytes.IndexAny(line, " \t")
	if i < 0 {
		return line, nil
	}
	return line[:i], bytes.TrimLeft(line[i:], " \t")
}

type parser struct {
	path     string
	doc      *Document
	line     int
	start    int      // where cur's account line begins
	cur      *block   // nil before the first account line
	domains  bool     // cur has a domain line, good or bad
	comments []string // comment lines since the last line that was none
	problems []error

	drafts map[*block]*Draft // nil: lines of "password" are not known
}

func (p *parser) full() bool { return len(p.problems) >= maxProblems }

func (p *parser) problem(format string, args ...any) { p.problemAt(p.line, format, args...) }

func (p *parser) problemAt(line int, format string, args ...any) {
	p.problems = append(p.problems, &ParseError{Path: p.path, Line: line, Reason: fmt.Sprintf(format, args...)})
}

// begin starts the account of that name, and ends the one before it.
func (p *parser) begin(name string, lead []byte) {
	p.finish()
	p.domains = false
	p.cur = &block{account: &Account{Name: name}, line: p.line, lead: lead}
	if err := CheckName(name); err != nil {
		p.problem("%v", err)
	} else if other := p.doc.names[name]; other != nil {
		p.problem("account %q exists already, in line %d", name, other.line)
	} else {
		p.doc.names[name] = p.cur
	}
}

// finish ends the current account.
func (p *parser) finish() {
	if p.cur == nil || p.full() {
		return
	}
	if !p.domains {
		p.problemAt(p.cur.line, "account %q has no domain", clip(p.cur.account.Name))
	}
	slices.Sort(p.cur.account.Domains)
	p.cur.account.sortIdentities()
	slices.Sort(p.cur.account.Recipients)
	p.cur.account.Recipients = slices.Compact(p.cur.account.Recipients)
	p.doc.blocks = append(p.doc.blocks, p.cur)
}

// fields are the lines that an account may have.
var fields = map[string]func(*parser, []string) error{
	"domain":               (*parser).domain,
	"own-hostname":         (*parser).ownHostname,
	"cram-md5":             (*parser).cramMD5,
	"scram-sha-256":        (*parser).scramSHA256,
	"scram-sha-256-domain": (*parser).scramDomain,
	"network":              (*parser).network,
	"recipient":            (*parser).recipient,
	"cert-email":           certificateField(CertEmail),
	"cert-dns":             certificateField(CertDNS),
	"cert-cn":              certificateField(CertCN),
	"cert-sha256":          certificateField(CertSHA256),
}

func certificateField(kind CertificateKind) func(*parser, []string) error {
	return func(p *parser, values []string) error {
		if len(values) == 0 {
			return fmt.Errorf("cert-%s needs a value", kind)
		}
		c, err := ParseCertificate(kind, strings.Join(values, " "))
		if err != nil {
			return err
		}
		if other := p.doc.certs[c]; other != nil {
			if other == p.cur {
				return fmt.Errorf("cert-%s %q is there twice", kind, clip(c.Value))
			}
			return fmt.Errorf("cert-%s %q belongs to account %q already", kind, clip(c.Value), other.account.Name)
		}
		p.doc.certs[c] = p.cur
		p.cur.account.Certificates = append(p.cur.account.Certificates, c)
		return nil
	}
}

func settingField(name string) func(*parser, []string) error {
	return func(p *parser, values []string) error {
		switch policy := &p.cur.account.Policy; {
		case len(values) != 1:
			return fmt.Errorf("%s needs one value", name)
		case values[0] == wordDefault:
			return fmt.Errorf("%s: leave the line out to have the server's default", name)
		case policy.has(name):
			return fmt.Errorf("%s is there twice", name)
		default:
			return policy.Set(name, values[0])
		}
	}
}

func (p *parser) network(values []string) error {
	if len(values) == 0 {
		return errors.New("network needs a value")
	}
	for _, v := range values {
		n, err := ParseNetwork(v)
		if err != nil {
			return err
		}
		if other := p.doc.nets[n]; other != nil {
			if other == p.cur {
				return fmt.Errorf("network %s is there twice", n)
			}
			return fmt.Errorf("network %s belongs to account %q already", n, other.account.Name)
		}
		p.doc.nets[n] = p.cur
		p.cur.account.Networks = append(p.cur.account.Networks, n)
	}
	return nil
}

func (p *parser) recipient(values []string) error {
	if len(values) == 0 {
		return errors.New("recipient needs a value")
	}
	for _, v := range values {
		entry, err := ParseRecipient(v)
		if err != nil {
			return err
		}
		if len(p.cur.account.Recipients) >= MaxRecipients {
			return fmt.Errorf("more than %d recipients", MaxRecipients)
		}
		p.cur.account.Recipients = append(p.cur.account.Recipients, entry)
	}
	return nil
}

func (p *parser) field(keyword string, rest []byte) {
	parse := fields[keyword]
	if parse == nil && slices.Contains(SettingNames(), keyword) {
		parse = settingField(keyword)
	}
	switch {
	case parse == nil && (keyword != wordPassword || p.drafts == nil):
		p.problem("unknown field %q", clip(keyword))
	case p.cur == nil:
		p.problem("%s stands before the first account line", keyword)
	case keyword == wordPassword:
		p.password(string(rest))
	default:
		if err := parse(p, strings.Fields(string(rest))); err != nil {
			p.problem("%v", err)
		}
	}
}

func (p *parser) domain(values []string) error {
	p.domains = true
	if len(values) == 0 {
		return errors.New("domain needs a value")
	}
	for _, v := range values {
		d, err := ParseDomain(v)
		if err != nil {
			return err
		}
		if other := p.doc.owners[d]; other != nil {
			if other == p.cur {
				return fmt.Errorf("domain %s is there twice", d)
			}
			return fmt.Errorf("domain %s belongs to account %q already", d, other.account.Name)
		}
		p.doc.owners[d] = p.cur
		p.cur.account.Domains = append(p.cur.account.Domains, d)
	}
	return nil
}

func (p *parser) ownHostname(values []string) error {
	if len(values) > 0 {
		return errors.New("own-hostname takes no value")
	}
	if p.cur.account.OwnHostname {
		return errors.New("own-hostname is there twice")
	}
	p.cur.account.OwnHostname = true
	return nil
}

func (p *parser) cramMD5(values []string) error { return p.cur.account.storeCRAM(values) }

func (p *parser) scramSHA256(values []string) error {
	return storeSCRAM(&p.cur.account.SCRAMSHA256, values)
}

func (p *parser) scramDomain(values []string) error {
	return storeSCRAM(&p.cur.account.SCRAMDomain, values)
}

// decode decodes base64 into all of dst. Its errors do not quote the value, which is a secret.
func decode(what, value string, dst []byte) error {
	b, err := decodeText(value)
	if err != nil {
		return fmt.Errorf("%s: bad base64", what)
	}
	if len(b) != len(dst) {
		return fmt.Errorf("%s: %d octets instead of %d", what, len(b), len(dst))
	}
	copy(dst, b)
	return nil
}

func decodeText(value string) ([]byte, error) { return base64.StdEncoding.Strict().DecodeString(value) }

// table makes the Directory of the document's accounts, whose consistency Parse and the
// editing methods have seen to.
func (d *Document) table() *Table {
	t := &Table{
		accounts: make([]*Account, 0, len(d.blocks)),
		names:    make(map[string]*Account, len(d.names)),
		domains:  make(map[string]*Account, len(d.owners)),
		known:    newIdentities(),
	}
	for _, b := range d.blocks {
		t.accounts = append(t.accounts, b.account)
		t.names[b.account.Name] = b.account
		for _, dom := range b.account.Domains {
			t.domains[dom] = b.account
		}
		_ = t.known.add(b.account) // nothing is there twice
	}
	slices.SortFunc(t.accounts, func(a, b *Account) int { return strings.Compare(a.Name, b.Name) })
	t.kinds = newKeyKinds(t.accounts)
	return t
}
