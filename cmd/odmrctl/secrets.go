package main

import (
	"odmr/internal/account"
	"odmr/internal/account/ldapdir"
	"odmr/internal/account/sqldir"
)

// accountSecrets is for accounts that are not in a file.
type accountSecrets struct {
	passwordFlags
}

func (accountSecrets) Help() string {
	return `Writes the lines that a database or an LDAP directory keeps of a password: the column secrets, or one value of
odmrSecret each. With --generate the password itself comes first. Nothing is stored.

Examples:
  odmrctl account secrets
  odmrctl account secrets --password-stdin < secret`
}

func (a *accountSecrets) Run(s *surroundings) error {
	password, err := a.password("the account", s)
	if err != nil {
		return err
	}
	keys, err := new(account.Account).WithPassword(password)
	if err != nil {
		return err
	}
	if err := a.tell(password, s); err != nil {
		return err
	}
	_, err = s.stdout.Write(keys.AppendSecrets(nil))
	return err
}

// accountSchema shows what odmrd looks for in a database or directory unless it is told otherwise.
type accountSchema struct {
	Kind string `arg:"" enum:"postgres,mysql,sqlite,ldap,ldif" help:"postgres, mysql or sqlite: the tables in SQL. ldap: the object class for slapd.conf. ldif: the same for cn=config."`
}

func (accountSchema) Help() string {
	return `Examples:
  odmrctl account schema postgres | psql odmr
  odmrctl account schema mysql | mariadb odmr
  odmrctl account schema sqlite | sqlite3 /var/lib/odmr/accounts.db
  odmrctl account schema ldif | ldapadd -Y EXTERNAL -H ldapi:///`
}

func (a *accountSchema) Run(s *surroundings) error {
	var text string
	var err error
	switch a.Kind {
	case "ldap":
		text = ldapdir.Schema()
	case "ldif":
		text = ldapdir.SchemaLDIF()
	default:
		text, err = sqldir.Schema(a.Kind)
	}
	if err == nil {
		_, err = s.stdout.Write([]byte(text))
	}
	return err
}
