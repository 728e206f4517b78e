package sqldir

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"odmr/internal/account"
	"odmr/internal/account/cache"
)

// listSizes are how many placeholders a list gets: few texts of a query, so that the server can keep them prepared. What is left
// over repeats the last value.
var listSizes = []int{1, 4, 16, 128}

const maxList = 128

// query is one of Queries in the words of a database.
type query struct {
	what    string
	text    []string // the text in pieces; between them the parameter stands
	list    bool
	columns int // that the answer has; 0: by name
	rows    int // that the answer stays below
	dialect *dialect
}

// compile finds the parameters of text. There is one, param, which may stand in several places.
func compile(text, param string, d *dialect) (query, error) {
	q := query{dialect: d, list: param != "name"}
	if strings.TrimSpace(text) == "" {
		return q, errors.New("is empty")
	}
	begin := 0
	for i := 0; i < len(text); {
		if end := skipQuoted(text, i); end > i {
			i = end
			continue
		}
		if text[i] != ':' {
			i++
			continue
		}
		end := i + 1
		for end < len(text) && isWord(text[end]) {
			end++
		}
		name := text[i+1 : end]
		switch {
		case strings.HasPrefix(text[i:], "::"), name == "": // PostgreSQL's cast
			for end < len(text) && (text[end] == ':' || isWord(text[end])) {
				end++
			}
		case name != param:
			return q, fmt.Errorf("unknown parameter :%s; there is :%s", name, param)
		default:
			q.text = append(q.text, text[begin:i])
			begin = end
		}
		i = end
	}
	if len(q.text) == 0 {
		return q, fmt.Errorf("does not ask for :%s", param)
	}
	q.text = append(q.text, text[begin:])
	return q, nil
}

// skipQuoted returns the end of the quoted text or comment that begins at i, or i.
func skipQuoted(text string, i int) int {
	rest, stop := text[i:], ""
	switch {
	case rest[0] == '\'' || rest[0] == '"' || rest[0] == '`':
		stop = rest[:1]
	case strings.HasPrefix(rest, "--"):
		stop = "\n"
	case strings.HasPrefix(rest, "/*"):
		stop = "*/"
	default:
		return i
	}
	if n := strings.Index(rest[1:], stop); n >= 0 {
		return i + 1 + n + len(stop)
	}
	return len(text)
}

func isWord(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// with returns text and arguments for values: one, or the elements of a list.
func (q *query) with(values []string) (string, []any) {
	size := 1
	if q.list {
		size = listSizes[slices.IndexFunc(listSizes, func(n int) bool { return n >= len(values) })]
	}
	var b strings.Builder
	var args []any
	for i, piece := range q.text {
		b.WriteString(piece)
		if i == len(q.text)-1 {
			break
		}
		for n := range size {
			if n > 0 {
				b.WriteByte(',')
			}
			args = append(args, values[min(n, len(values)-1)])
			b.WriteString(q.dialect.placeholder(len(args)))
		}
	}
	return b.String(), args
}

// answer is all rows of one. NULL is "".
type answer struct {
	columns []string
	values  [][]string
}

// rows asks q.
func (s *Source) rows(ctx context.Context, q *query, values []string) (*answer, error) {
	text, args := q.with(values)
	rows, err := s.db.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, s.failed(q, err)
	}
	defer rows.Close()
	a := new(answer)
	if a.columns, err = rows.Columns(); err != nil {
		return nil, s.failed(q, err)
	}
	if q.columns > 0 && len(a.columns) != q.columns {
		return nil, fmt.Errorf("%w: query of %s: %d columns instead of %d", cache.ErrRefused, q.what, len(a.columns), q.columns)
	}
	fields := make([]sql.NullString, len(a.columns))
	into := make([]any, len(fields))
	for i := range fields {
		into[i] = &fields[i]
	}
	for rows.Next() {
		if len(a.values) == q.rows {
			return nil, fmt.Errorf("%w: query of %s: more than %d rows", account.ErrRecord, q.what, q.rows-1)
		}
		if err := rows.Scan(into...); err != nil { // of a column that is no text
			return nil, fmt.Errorf("%w: query of %s: a column is no text", account.ErrRecord, q.what)
		}
		row := make([]string, len(fields))
		for i, f := range fields {
			row[i] = f.String
		}
		a.values = append(a.values, row)
	}
	if err := rows.Err(); err != nil {
		return nil, s.failed(q, err)
	}
	return a, nil
}

// accountColumns are what the columns of an account's query mean.
var accountColumns = map[string]func(r *account.Record, value string){
	"name":     func(r *account.Record, value string) { r.Name = value },
	"secrets":  func(r *account.Record, value string) { r.Secrets = lines(value) },
	"settings": func(r *account.Record, value string) { r.Settings = lines(value) },
	"password": func(r *account.Record, value string) {
		if value != "" {
			r.Passwords = []string{value}
		}
	},
}

// lines splits what one column holds: lines, or parts separated by semicolons.
func lines(value string) []string {
	return strings.FieldsFunc(value, func(r rune) bool { return r == '\n' || r == '\r' || r == ';' })
}

// checkAccount says what is wrong with the columns of an account's query.
func (a *answer) checkAccount() error {
	seen := map[string]bool{}
	for _, c := range a.columns {
		c = strings.ToLower(c)
		if accountColumns[c] == nil {
			return fmt.Errorf("%w: query of account: column %q is none of name, secrets, password, settings", cache.ErrRefused, c)
		}
		seen[c] = true
	}
	if !seen["name"] || !seen["secrets"] && !seen["password"] {
		return fmt.Errorf("%w: query of account: there must be columns name, and secrets or password", cache.ErrRefused)
	}
	return nil
}

// record reads one row of an account's query.
func (a *answer) record(row []string) account.Record {
	var r account.Record
	for i, c := range a.columns {
		if set := accountColumns[strings.ToLower(c)]; set != nil {
			set(&r, row[i])
		}
	}
	return r
}
