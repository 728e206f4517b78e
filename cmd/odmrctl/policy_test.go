package main

import (
	"maps"
	"slices"
	"testing"

	"odmr/internal/account"
)

// Each setting of an account has its flag, and no other flag is taken for one.
func TestPolicyFlagsAreTheSettings(t *testing.T) {
	want := slices.Sorted(slices.Values(account.SettingNames()))
	if got := slices.Sorted(maps.Keys(new(policyFlags).values())); !slices.Equal(got, want) {
		t.Errorf("flags for %v, settings %v", got, want)
	}
}
