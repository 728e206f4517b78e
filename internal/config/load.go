package config

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"reflect"
	"sort"
	"strings"

	"github.com/alecthomas/kong"
	kongyaml "github.com/alecthomas/kong-yaml"
	"gopkg.in/yaml.v3"

	"odmr/engine/session"
	"odmr/internal/account"
	"odmr/internal/mail"
	"odmr/internal/units"
)

// EnvPrefix begins the name of every environment variable that is read.
const EnvPrefix = "ODMRD_"

// Source is where a configuration is read from.
type Source struct {
	Args     []string                          // command line without the program's name
	Getenv   func(name string) (string, bool)  // nil: no environment
	ReadFile func(name string) ([]byte, error) // nil: os.ReadFile
	Hostname func() (name string, err error)   // nil: os.Hostname
}

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Flag string // without dashes; empty if it concerns no flag
	Text string // what is wrong, with the value and where it came from
}

func (p Problem) String() string {
	if p.Flag == "" {
		return p.Text
	}
	return "--" + p.Flag + ": " + p.Text
}

// Problems is everything that is wrong with a configuration, in the order of the flags.
type Problems []Problem

func (p Problems) Error() string {
	var b strings.Builder
	if len(p) == 1 {
		b.WriteString("the configuration has a problem:\n")
	} else {
		fmt.Fprintf(&b, "the configuration has %d problems:\n", len(p))
	}
	for _, problem := range p {
		b.WriteString("  " + problem.String() + "\n")
	}
	return b.String()
}

// loader collects values and problems while kong walks the flags.
type loader struct {
	Source
	cfg      *Config
	app      *kong.Kong
	file     kong.Resolver     // the YAML file; nil if there is none or it cannot be read
	lines    map[string]string // flags that the file sets -> FILE:LINE
	from     string            // where the value came from that decode is called with next; empty: command line
	problems Problems
}

// Load reads and checks a configuration. The error, if any, is of type Problems. Where Help,
// Version or PrintConfig is set the caller does that and nothing else; with Help or Version,
// Load reports no problems.
func Load(src Source) (*Config, error) {
	l, err := newLoader(src)
	if err != nil {
		return nil, err
	}
	args := l.scanArgs(src.Args)
	l.readFile(args)
	if _, err := l.app.Parse(args); err != nil {
		// All that a configuration can get wrong is collected before this point; what is left is
		// reported rather than lost.
		l.problem("", err.Error())
	}
	l.fillHostname()
	l.check()
	if l.cfg.Help || l.cfg.Version {
		return l.cfg, nil
	}
	if len(l.problems) > 0 {
		l.sortProblems()
		return l.cfg, l.problems
	}
	return l.cfg, nil
}

func newLoader(src Source) (*loader, error) {
	if src.Getenv == nil {
		src.Getenv = func(string) (string, bool) { return "", false }
	}
	if src.ReadFile == nil {
		src.ReadFile = os.ReadFile
	}
	if src.Hostname == nil {
		src.Hostname = os.Hostname
	}
	l := &loader{Source: src, cfg: &Config{}, lines: map[string]string{}}
	options := []kong.Option{
		kong.Name("odmrd"),
		kong.Description("On-Demand Mail Relay server (RFC 2645): takes mail for customers' domains over SMTP and LMTP, " +
			"holds it, and hands it to customers who ask for it with ATRN.\n\n" +
			"Every flag is also an environment variable (" + EnvPrefix + "…, in capitals, with _ for -) and a key of the file " +
			"named by --config; the flag wins over the environment, the environment over the file."),
		kong.NoDefaultHelp(),
		defaults(),
		kong.Resolvers(kong.ResolverFunc(l.resolve)),
		kong.ExplicitGroups(groups),
		kong.ValueFormatter(helpText),
		kong.ConfigureHelp(kong.HelpOptions{WrapUpperBound: 110, NoAppSummary: true}),
	}
	for _, t := range fieldTypes() {
		options = append(options, kong.TypeMapper(t, kong.MapperFunc(l.decode)))
	}
	var err error
	if l.app, err = kong.New(l.cfg, options...); err != nil {
		return nil, err
	}
	for _, f := range l.flags() {
		f.PlaceHolder = placeholder(f)
	}
	return l, nil
}

// defaults are the values that Config's tags take from elsewhere.
func defaults() kong.Vars {
	return kong.Vars{
		"max_recipients":     fmt.Sprint(mail.MaxRecipients),
		"session_errors":     fmt.Sprint(mail.MaxErrors),
		"rate_window":        units.FormatDuration(session.RateWindow),
		"max_sessions":       "20000",
		"keep_alive":         units.FormatDuration(session.ReversedKeepAlive),
		"max_noops":          fmt.Sprint(session.ReversedMaxJunk),
		"window_messages":    fmt.Sprint(session.ReversedWindowMessages),
		"window_bytes":       Size(session.ReversedWindowBytes).String(),
		"shield_refusals":    fmt.Sprint(session.ReversedShieldRefusals),
		"shield_window":      fmt.Sprint(session.ReversedShieldWindow),
		"mechanisms":         strings.Join(account.Implemented(), ","),
		"handshake_timeout":  units.FormatDuration(mail.TimeoutHandshake),
		"login_timeout":      units.FormatDuration(mail.TimeoutLogin),
		"command_timeout":    units.FormatDuration(mail.TimeoutCommand),
		"greeting_timeout":   units.FormatDuration(mail.TimeoutGreeting),
		"envelope_timeout":   units.FormatDuration(mail.TimeoutEnvelope),
		"data_init_timeout":  units.FormatDuration(mail.TimeoutDataInit),
		"data_block_timeout": units.FormatDuration(mail.TimeoutDataBlock),
		"data_done_timeout":  units.FormatDuration(mail.TimeoutDataDone),
		"quit_timeout":       units.FormatDuration(mail.TimeoutQuit),
	}
}

// fieldTypes are the types of Config's fields except bool, which kong must know as a flag
// without a value.
func fieldTypes() []reflect.Type {
	var types []reflect.Type
	for _, f := range reflect.VisibleFields(reflect.TypeOf(Config{})) {
		if f.Type.Kind() != reflect.Bool {
			types = append(types, f.Type)
		}
	}
	return types
}

func (l *loader) flags() []*kong.Flag { return l.app.Model.Flags }

// inFile reports whether a flag may stand in the environment and in the file.
func inFile(f *kong.Flag) bool { return f.Tag.Get("file") != "-" }

// envName is the environment variable of a flag.
func envName(flag string) string {
	return EnvPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func (l *loader) problem(flag, text string) {
	l.problems = append(l.problems, Problem{Flag: flag, Text: text})
}

// sortProblems puts the problems into the order of the flags, those without one first.
func (l *loader) sortProblems() {
	place := map[string]int{}
	for i, f := range l.flags() {
		place[f.Name] = i + 1
	}
	sort.SliceStable(l.problems, func(i, j int) bool {
		return place[l.problems[i].Flag] < place[l.problems[j].Flag]
	})
}

// scanArgs returns those of args that kong will take, and reports the others: kong itself
// would stop at the first.
func (l *loader) scanArgs(args []string) []string {
	var good []string
	for i := 0; i < len(args); i++ {
		name, value, hasValue := strings.Cut(args[i], "=")
		if name == "-h" {
			name = "--help"
		}
		if !strings.HasPrefix(name, "--") || name == "--" {
			l.problem("", fmt.Sprintf("%q is not a flag, and odmrd takes nothing else", args[i]))
			continue
		}
		flag := l.find(name[2:])
		switch {
		case flag == nil:
			l.problem(name[2:], "there is no such flag; --help lists them")
			if !hasValue && i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
				i++ // most likely its value
			}
		case flag.IsBool() && hasValue:
			l.problem(flag.Name, "takes no value")
		case flag.IsBool():
			good = append(good, name)
		case hasValue:
			good = append(good, name+"="+value)
		case i+1 < len(args) && !strings.HasPrefix(args[i+1], "--"):
			i++
			good = append(good, name+"="+args[i])
		default:
			l.problem(flag.Name, "has no value")
		}
	}
	return good
}

func (l *loader) find(name string) *kong.Flag {
	for _, f := range l.flags() {
		if f.Name == name {
			return f
		}
	}
	return nil
}

// readFile reads the file named by --config, the last one given.
func (l *loader) readFile(args []string) {
	name := ""
	for _, a := range args {
		if v, ok := strings.CutPrefix(a, "--config="); ok {
			name = v
		}
	}
	if name == "" {
		return
	}
	text, err := l.ReadFile(name)
	if err != nil {
		l.problem("config", err.Error())
		return
	}
	l.checkKeys(name, text)
	resolver, err := kongyaml.Loader(bytes.NewReader(text))
	if err != nil {
		l.problem("config", fmt.Sprintf("%s: %v", name, err))
		return
	}
	l.file = resolver
}

// checkKeys reports keys of the file that are no flags, and notes the line of those that are.
func (l *loader) checkKeys(name string, text []byte) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil || len(doc.Content) == 0 {
		return // the resolver reports what is wrong
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		where := fmt.Sprintf("%s:%d", name, key.Line)
		flag := l.find(key.Value)
		switch {
		case flag == nil:
			l.problem("config", fmt.Sprintf("%s: unknown key %q", where, key.Value))
		case !inFile(flag):
			l.problem("config", fmt.Sprintf("%s: key %q has no meaning in a file", where, key.Value))
		case value.Tag == "!!null":
			l.problem(flag.Name, fmt.Sprintf("%s: has no value; write [] or \"\" for none", where))
		case value.Kind == yaml.MappingNode:
			l.problem(flag.Name, fmt.Sprintf("%s: is a mapping, where a value or a list is wanted", where))
		default:
			l.lines[flag.Name] = where
		}
	}
}

// resolve gives kong the value of a flag that is not on the command line: the environment's,
// else the file's, else none.
func (l *loader) resolve(ctx *kong.Context, parent *kong.Path, flag *kong.Flag) (any, error) {
	if !inFile(flag) {
		return nil, nil
	}
	if v, ok := l.Getenv(envName(flag.Name)); ok {
		l.from = "environment variable " + envName(flag.Name)
		return v, nil
	}
	if line, ok := l.lines[flag.Name]; ok && l.file != nil {
		l.from = line
		return l.file.Resolve(ctx, parent, flag)
	}
	return nil, nil
}

// decode is the mapper of every type. It reports what it cannot read and returns nil, so that
// kong goes on to the next flag.
func (l *loader) decode(ctx *kong.DecodeContext, target reflect.Value) error {
	flag, value := ctx.Value.Flag, ctx.Scan.Pop().Value
	where := ""
	if l.from != "" {
		where = " (from " + l.from + ")"
		l.from = ""
	}
	list := target.Kind() == reflect.Slice
	elements := texts(value, target)
	if list && len(elements) == 0 { // an empty value takes back those before it on the command line
		target.SetZero()
	}
	for _, text := range elements {
		element := target
		if list {
			element = reflect.New(target.Type().Elem()).Elem()
		}
		if err := parse(text, flag, element); err != nil {
			l.problem(flag.Name, fmt.Sprintf("%q is %v%s", text, err, where))
			continue
		}
		if list {
			target.Set(reflect.Append(target, element))
		}
	}
	return nil
}

// Usage writes --help.
func Usage(w io.Writer) error {
	l, err := newLoader(Source{})
	if err != nil {
		return err
	}
	l.app.Stdout = w
	ctx, err := kong.Trace(l.app, nil)
	if err != nil {
		return err
	}
	if ctx.Error != nil {
		return ctx.Error
	}
	return ctx.PrintUsage(false)
}

func (l *loader) fillHostname() {
	if l.cfg.Hostname != "" {
		return
	}
	name, err := l.Source.Hostname()
	if err != nil {
		l.problem("hostname", "is not given, and the machine's own cannot be told: "+err.Error())
		return
	}
	l.cfg.Hostname = name
}
