package ldapdir

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/go-ldap/ldap/v3"

	"odmr/internal/account"
	"odmr/internal/account/cache"
)

// TestResults: what the directory answers is about everybody, about us, or about the one question; and no answer is about everybody.
func TestResults(t *testing.T) {
	answer := func(code uint16) error { return ldap.NewError(code, errors.New("as it said")) }
	const down, refused, record = "down", "refused", "record"
	kind := func(err error) string {
		switch {
		case errors.Is(err, cache.ErrRefused):
			return refused
		case errors.Is(err, account.ErrRecord):
			return record
		case errors.Is(err, account.ErrUnknown):
			return "unknown"
		}
		return down
	}
	for _, c := range []struct {
		err          error
		search, bind string
	}{
		{answer(ldap.LDAPResultBusy), down, down},
		{answer(ldap.LDAPResultUnavailable), down, down},
		{answer(ldap.LDAPResultOther), down, down},
		{answer(ldap.ErrorNetwork), down, down},
		{answer(ldap.ErrorUnexpectedResponse), down, down},
		{context.DeadlineExceeded, down, down},
		{fmt.Errorf("search: %w", context.DeadlineExceeded), down, down},
		{answer(ldap.LDAPResultInvalidCredentials), refused, refused},
		{answer(ldap.LDAPResultInsufficientAccessRights), refused, refused},
		{answer(ldap.LDAPResultStrongAuthRequired), refused, refused},
		{answer(ldap.LDAPResultConfidentialityRequired), refused, refused},
		{answer(ldap.LDAPResultNoSuchObject), refused, refused},
		{answer(ldap.LDAPResultOperationsError), refused, refused},
		{answer(ldap.LDAPResultUnwillingToPerform), record, refused},
		{answer(ldap.LDAPResultSizeLimitExceeded), record, refused},
		{answer(ldap.LDAPResultTimeLimitExceeded), record, refused},
		{answer(ldap.LDAPResultAdminLimitExceeded), record, refused},
		{answer(ldap.LDAPResultInvalidAttributeSyntax), record, refused}, // of what somebody typed
		{answer(ldap.LDAPResultInappropriateMatching), record, refused},
		{answer(ldap.LDAPResultUndefinedAttributeType), record, refused},
	} {
		if got := kind(searchError(c.err)); got != c.search {
			t.Errorf("%v to a search: %s, want %s", c.err, got, c.search)
		}
		if got := kind(bindError(c.err)); got != c.bind {
			t.Errorf("%v to a bind: %s, want %s", c.err, got, c.bind)
		}
		if got := kind(searchError(bindError(c.err))); c.bind == refused && got != refused { // a search that had to bind first
			t.Errorf("%v to the bind of a search: %s", c.err, got)
		}
	}
	if searchError(nil) != nil || bindError(nil) != nil {
		t.Error("success is an error")
	}
}
