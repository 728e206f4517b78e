package config

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"gopkg.in/yaml.v3"
)

// WriteYAML writes cfg as YAML that --config takes back with the same effect.
func WriteYAML(w io.Writer, cfg *Config) error {
	l, err := newLoader(Source{})
	if err != nil {
		return err
	}
	*l.cfg = *cfg
	root := &yaml.Node{Kind: yaml.MappingNode}
	group := ""
	for _, f := range l.flags() {
		if !inFile(f) {
			continue
		}
		key := &yaml.Node{Kind: yaml.ScalarNode, Value: f.Name}
		if f.Group.Key != group {
			group = f.Group.Key
			key.HeadComment = f.Group.Title
		}
		value, err := yamlNode(f.Target)
		if err != nil {
			return err
		}
		root.Content = append(root.Content, key, value)
	}
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	if err := enc.Encode(root); err != nil {
		return err
	}
	if err := enc.Close(); err != nil {
		return err
	}
	_, err = w.Write(b.Bytes())
	return err
}

// yamlNode gives numbers as numbers and everything else in its text form, quoted where YAML needs it.
func yamlNode(v reflect.Value) (*yaml.Node, error) {
	node := &yaml.Node{}
	if v.Kind() == reflect.Slice {
		node.Kind, node.Style = yaml.SequenceNode, yaml.FlowStyle
		for i := 0; i < v.Len(); i++ {
			element, err := yamlNode(v.Index(i))
			if err != nil {
				return nil, err
			}
			node.Content = append(node.Content, element)
		}
		return node, nil
	}
	if n, ok := v.Interface().(int); ok {
		return node, node.Encode(n)
	}
	return node, node.Encode(format(v))
}

// WriteTable writes the README's table of flags: Markdown, in the order of --help.
func WriteTable(w io.Writer) error {
	l, err := newLoader(Source{})
	if err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("| flag | default | meaning |\n|---|---|---|\n")
	group := ""
	for _, f := range l.flags() {
		if f.Group.Key != group {
			group = f.Group.Key
			fmt.Fprintf(&b, "| **%s** | | %s |\n", f.Group.Title, f.Group.Description)
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", tableFlag(f), tableDefault(f), escapeCell(f.Help+bounds(f.Value)))
	}
	_, err = io.WriteString(w, b.String())
	return err
}

func tableFlag(f *kong.Flag) string {
	if f.IsBool() {
		return "`--" + f.Name + "`"
	}
	return "`--" + f.Name + "` " + escapeCell(f.PlaceHolder)
}

func tableDefault(f *kong.Flag) string {
	if !f.HasDefault {
		return ""
	}
	return "`" + escapeCell(f.Default) + "`"
}

func escapeCell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }

// placeholder names what a flag takes, by its type unless its tag says it.
func placeholder(f *kong.Flag) string {
	if f.PlaceHolder != "" {
		return f.PlaceHolder
	}
	switch f.Target.Interface().(type) {
	case Size:
		return "SIZE"
	case time.Duration:
		return "DURATION"
	}
	return "N"
}

// bounds says which values a flag takes, from its tags.
func bounds(v *kong.Value) string {
	if v.Tag.Get("min") == "" {
		return ""
	}
	return fmt.Sprintf(" (%s to %s)", v.Tag.Get("min"), v.Tag.Get("max"))
}

// helpText is what --help shows beside a flag: its help, its bounds, its default, and its
// environment variable.
func helpText(v *kong.Value) string {
	if v.Flag == nil || !inFile(v.Flag) {
		return v.Help
	}
	text := v.Help + bounds(v)
	if v.HasDefault {
		text += " Default: " + v.Default + "."
	}
	return text + " [" + envName(v.Name) + "]"
}
