package sqldir

import (
	"errors"
	"fmt"
	"slices"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"

	"odmr/internal/account"
	"odmr/internal/account/cache"
)

// What an error means, as ldapdir has it. Without an answer, or with one that says "not now", the database is down for everybody. Where it refuses
// this server as such (our login, our rights, a database, table or column that there is not, a query that is none) an operator has to mend
// something. What a value brings about is about the one question. What is not known here is taken for an outage: that is looked at again soonest.

// postgresMeans goes by SQLSTATE, which PostgreSQL has in classes of two letters (PostgreSQL, appendix A).
func postgresMeans(err error) error {
	var e *pgconn.PgError
	if !errors.As(err, &e) || len(e.Code) != 5 {
		return nil
	}
	switch e.Code[:2] {
	case "21", "22", "P0": // cardinality, data, and what a function of the operator's raises
		return account.ErrRecord
	case "28", "3D", "3F", "42", "0A", "0P": // login, database, schema, rights and syntax, what it cannot do, role
		return cache.ErrRefused
	}
	return nil
}

// mariadbRecords are about values: a subquery with several rows; collations and character sets that do not go together; values out of range; SIGNAL.
var mariadbRecords = []uint16{1242, 1264, 1267, 1271, 1292, 1300, 1366, 1644, 3854, 3988}

// mariadbRefusals are about us.
var mariadbRefusals = []uint16{
	1044, 1045, 1698, 1129, 1130, // login, at this database, with its plugin; our host, blocked or unknown
	1251, 1275, 1524, 1820, 1862, 3118, 3159, 3955, 4151, // how we log in; a password that is over; locked; TLS is asked for
	1142, 1143, 1227, 1370, // rights: table, column, anything, routine
	1046, 1049, 1051, 1054, 1064, 1109, 1146, 1149, 1305, // no such database, table, column, routine; syntax
}

// mariadbLogins are of the driver, which will not log in as the server wants.
var mariadbLogins = []error{mysql.ErrCleartextPassword, mysql.ErrNativePassword, mysql.ErrOldPassword, mysql.ErrUnknownPlugin}

func mariadbMeans(err error) error {
	var e *mysql.MySQLError
	switch answered := errors.As(err, &e); {
	case answered && slices.Contains(mariadbRecords, e.Number):
		return account.ErrRecord
	case answered && slices.Contains(mariadbRefusals, e.Number):
		return cache.ErrRefused
	case slices.ContainsFunc(mariadbLogins, func(login error) bool { return errors.Is(err, login) }):
		return cache.ErrRefused
	}
	return nil
}

// Result codes of SQLite, without what extends them.
const (
	sqliteError  = 1 // no such table, no such column, syntax
	sqlitePerm   = 3
	sqliteAuth   = 23
	sqliteNotADB = 26
)

func sqliteMeans(err error) error {
	var e *sqlite.Error
	if errors.As(err, &e) && slices.Contains([]int{sqliteError, sqlitePerm, sqliteAuth, sqliteNotADB}, e.Code()&0xff) {
		return cache.ErrRefused
	}
	return nil
}

// failed says whether err is about this one question, about us, or means that the database is down.
func (s *Source) failed(q *query, err error) error {
	if means := s.dialect.means(err); means != nil {
		return fmt.Errorf("%w: query of %s: %w", means, q.what, err)
	}
	return fmt.Errorf("query of %s: %w", q.what, err)
}
