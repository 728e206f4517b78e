package main

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"time"

	"github.com/alecthomas/kong"
)

// outOfBounds reports a flag whose number is outside of what its tags min and max allow: a scenario with no
// customers or no time measures nothing.
func outOfBounds(chosen *kong.Context) error {
	for _, flag := range chosen.Flags() {
		values := []reflect.Value{flag.Target}
		if flag.Target.Kind() == reflect.Slice {
			values = nil
			for i := range flag.Target.Len() {
				values = append(values, flag.Target.Index(i))
			}
		}
		for _, v := range values {
			if least := flag.Tag.Get("min"); least != "" && number(v) < bound(least) {
				return fmt.Errorf("--%s: %v is less than %s", flag.Name, v.Interface(), least)
			}
			if most := flag.Tag.Get("max"); most != "" && number(v) > bound(most) {
				return fmt.Errorf("--%s: %v is more than %s", flag.Name, v.Interface(), most)
			}
		}
	}
	return nil
}

// number is the value of a flag; durations count in nanoseconds.
func number(v reflect.Value) float64 {
	if v.CanInt() {
		return float64(v.Int())
	}
	return v.Float()
}

// bound reads a tag.
func bound(text string) float64 {
	if d, err := time.ParseDuration(text); err == nil {
		return float64(d)
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		panic(err) // the tag is wrong: cannot happen at a user's
	}
	return n
}

// complain says what is wrong with the command line, and which help to look at.
func complain(chosen *kong.Context, err error) {
	var wrong *kong.ParseError
	if errors.As(err, &wrong) {
		chosen = wrong.Context
	}
	command := "odmrbench"
	if chosen != nil && chosen.Selected() != nil {
		command = chosen.Selected().FullPath()
	}
	fmt.Fprintf(os.Stderr, "odmrbench: %v\nodmrbench: see %s --help\n", err, command)
}
