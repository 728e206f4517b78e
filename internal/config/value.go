package config

import (
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"odmr/internal/units"
)

// texts splits what a source gave for a flag into the texts of its elements. Only a list may
// be empty: a blank text means "none" there.
func texts(value any, target reflect.Value) []string {
	if target.Kind() != reflect.Slice {
		return []string{fmt.Sprint(value)}
	}
	if list, ok := value.([]any); ok {
		out := make([]string, 0, len(list))
		for _, v := range list {
			out = append(out, fmt.Sprint(v))
		}
		return out
	}
	text := strings.TrimSpace(fmt.Sprint(value))
	if text == "" {
		return nil
	}
	out := strings.Split(text, ",")
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	return out
}

var (
	errNumber = errors.New("not a whole number")
	errPrefix = errors.New("not a network: write address/bits, as 192.0.2.0/24")
)

// parse reads the text form of one element into target and checks it against the flag's tags.
// Errors read on from "… is".
func parse(text string, flag *kong.Flag, target reflect.Value) error {
	low, high := flag.Tag.Get("min"), flag.Tag.Get("max")
	if err := parseText(text, target); err != nil {
		if low != "" {
			return fmt.Errorf("%w (%s to %s)", err, low, high)
		}
		return err
	}
	if choices := flag.Tag.Get("choices"); choices != "" && !slices.Contains(strings.Split(choices, ","), text) {
		return fmt.Errorf("none of %s", strings.ReplaceAll(choices, ",", ", "))
	}
	if low == "" {
		return nil
	}
	least, most := reflect.New(target.Type()).Elem(), reflect.New(target.Type()).Elem()
	if err := errors.Join(parseText(low, least), parseText(high, most)); err != nil {
		return fmt.Errorf("not comparable with min and max: %w", err)
	}
	if target.Int() < least.Int() || target.Int() > most.Int() {
		return fmt.Errorf("out of range: %s to %s", low, high)
	}
	return nil
}

func parseText(text string, target reflect.Value) error {
	switch p := target.Addr().Interface().(type) {
	case *netip.Prefix:
		return parsePrefix(text, p)
	case encoding.TextUnmarshaler:
		return p.UnmarshalText([]byte(text))
	case *time.Duration:
		d, err := units.ParseDuration(text)
		if err != nil {
			return err
		}
		*p = d
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return errNumber
		}
		*p = n
	case *string:
		*p = text
	default:
		return fmt.Errorf("of type %s, which no flag can have", target.Type())
	}
	return nil
}

// parsePrefix refuses bits beyond the prefix length: they are a slip more often than not.
func parsePrefix(text string, p *netip.Prefix) error {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return errPrefix
	}
	if prefix != prefix.Masked() {
		return fmt.Errorf("not a network: bits after the first %d are set; %s?", prefix.Bits(), prefix.Masked())
	}
	*p = prefix
	return nil
}

// format is the inverse of parseText.
func format(v reflect.Value) string {
	if d, ok := v.Interface().(time.Duration); ok {
		return units.FormatDuration(d)
	}
	return fmt.Sprint(v.Interface())
}
