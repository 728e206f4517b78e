package ldapdir

import (
	"errors"
	"fmt"

	"github.com/go-ldap/ldap/v3"

	"odmr/internal/account"
	"odmr/internal/account/cache"
)

// What an error means (RFC 4511 appendix A). Without an answer, or with one that says "not now", the directory is down for everybody. Where it
// refuses this server as such, or has no such base, an operator has to mend something, and to ask again at full speed would get the account of
// our bind locked. Any other answer is about the one question: a name that somebody typed must not be able to take the directory from all others.

// away are answers of a directory that cannot serve anybody now.
var away = []uint16{ldap.LDAPResultBusy, ldap.LDAPResultUnavailable, ldap.LDAPResultOther}

// refusals are answers to a search that no value in its filter brings about.
var refusals = []uint16{
	ldap.LDAPResultOperationsError, // as Active Directory has it for who is not bound
	ldap.LDAPResultInvalidCredentials, ldap.LDAPResultInappropriateAuthentication, ldap.LDAPResultStrongAuthRequired,
	ldap.LDAPResultConfidentialityRequired, ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultReferral,
	ldap.LDAPResultNoSuchObject, ldap.LDAPResultInvalidDNSyntax,
}

// resultOf is the code of a directory's answer, false for an error that is none: ours, or the line's.
func resultOf(err error) (uint16, bool) {
	var e *ldap.Error
	if !errors.As(err, &e) || e.ResultCode >= ldap.ErrorNetwork {
		return 0, false
	}
	return e.ResultCode, true
}

// bindError says what an error of StartTLS or bind means.
func bindError(err error) error {
	if _, answered := resultOf(err); answered && !ldap.IsErrorAnyOf(err, away...) || ldap.IsErrorWithCode(err, ldap.ErrorEmptyPassword) {
		return fmt.Errorf("%w: bind: %w", cache.ErrRefused, err)
	}
	return err
}

// searchError says what an error of a search means.
func searchError(err error) error {
	_, answered := resultOf(err)
	switch {
	case err == nil, errors.Is(err, cache.ErrRefused), !answered, ldap.IsErrorAnyOf(err, away...):
		return err
	case ldap.IsErrorAnyOf(err, refusals...):
		return fmt.Errorf("%w: search: %w", cache.ErrRefused, err)
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded):
		return fmt.Errorf("%w: more entries have one of the values that were asked for than are needed, or than the directory lists", account.ErrRecord)
	}
	return fmt.Errorf("%w: search: %w", account.ErrRecord, err)
}
