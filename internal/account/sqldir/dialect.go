package sqldir

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"odmr/internal/trust"
)

// dialect is what differs between databases.
type dialect struct {
	open        func(Config) (*sql.DB, error)
	placeholder func(n int) string
	// means is account.ErrRecord of an error about the values of one question, cache.ErrRefused of one about us; nil: the database is down.
	means    func(error) error
	lifetime time.Duration // of a connection; 0: for ever
}

// dialects are the databases, by the scheme of their URL.
var dialects = map[string]*dialect{
	"postgres":   &postgres,
	"postgresql": &postgres,
	"mysql":      &mariadb,
	"mariadb":    &mariadb,
	"sqlite":     &sqliteFile,
}

var postgres = dialect{
	open:        openPostgres,
	placeholder: func(n int) string { return "$" + strconv.Itoa(n) },
	means:       postgresMeans,
}

var mariadb = dialect{
	open:        openMySQL,
	placeholder: func(int) string { return "?" },
	means:       mariadbMeans,
}

var sqliteFile = dialect{
	open:        openSQLite,
	placeholder: func(int) string { return "?" },
	means:       sqliteMeans,
	lifetime:    time.Minute, // a file that was replaced is noticed
}

// password returns what the file holds.
func password(file string) (string, error) {
	p, err := trust.ReadPassword(file)
	if err != nil {
		return "", fmt.Errorf("password file: %w", err)
	}
	return p, nil
}

func openPostgres(cfg Config) (*sql.DB, error) {
	conn, err := pgx.ParseConfig(cfg.URL)
	var missing *fs.PathError
	if errors.As(err, &missing) { // of the CAs or a client's certificate; other errors may quote the URL
		return nil, missing
	}
	if err != nil {
		return nil, errors.New("not a URL of PostgreSQL: postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full, or postgres://USER@/DATABASE?host=DIRECTORY")
	}
	if cfg.CAFile != "" {
		return nil, errors.New("for PostgreSQL the CA is given in the URL: sslmode=verify-full&sslrootcert=FILE")
	}
	if err := checkPostgres(cfg, conn); err != nil {
		return nil, err
	}
	conn.RuntimeParams["application_name"] = "odmrd"
	return stdlib.OpenDB(*conn, stdlib.OptionBeforeConnect(func(_ context.Context, c *pgx.ConnConfig) (err error) {
		if cfg.PasswordFile != "" {
			c.Password, err = password(cfg.PasswordFile)
		}
		return err
	})), nil
}

// checkPostgres looks at all that conn would try in turn: without sslmode that is TLS with any certificate, and then clear text.
func checkPostgres(cfg Config, conn *pgx.ConnConfig) error {
	tries := append([]*pgconn.FallbackConfig{{Host: conn.Host, Port: conn.Port, TLSConfig: conn.TLSConfig}}, conn.Fallbacks...)
	for _, try := range tries {
		if network, _ := pgconn.NetworkAddress(try.Host, try.Port); network == "unix" || cfg.Unverified {
			continue
		}
		if err := trust.CheckSecrecy(try.Host, try.TLSConfig); err != nil {
			return fmt.Errorf("%w: use sslmode=verify-full", err)
		}
	}
	return nil
}

// openMySQL takes a URL in place of the driver's own form. Parameters are the driver's, and socket.
func openMySQL(cfg Config) (*sql.DB, error) {
	wrong := errors.New("not a URL of MySQL: mysql://USER@HOST:PORT/DATABASE?tls=true, or mysql://USER@/DATABASE?socket=FILE")
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Opaque != "" || strings.Trim(u.Path, "/") == "" {
		return nil, wrong
	}
	params := u.Query()
	socket := params.Get("socket")
	params.Del("socket")
	conn, err := mysql.ParseDSN("/?" + params.Encode())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", wrong, err)
	}
	conn.User, conn.DBName = u.User.Username(), strings.Trim(u.Path, "/")
	conn.Passwd, _ = u.User.Password()
	switch {
	case socket != "":
		conn.Net, conn.Addr = "unix", socket
	case u.Hostname() == "":
		return nil, wrong
	default:
		conn.Net, conn.Addr = "tcp", net.JoinHostPort(u.Hostname(), u.Port())
		if u.Port() == "" {
			conn.Addr = net.JoinHostPort(u.Hostname(), "3306")
		}
	}
	if err := secureMySQL(cfg, conn, u.Hostname()); err != nil {
		return nil, err
	}
	conn.Logger = silent{}
	if cfg.PasswordFile != "" {
		if err := conn.Apply(mysql.BeforeConnect(func(_ context.Context, c *mysql.Config) (err error) {
			c.Passwd, err = password(cfg.PasswordFile)
			return err
		})); err != nil {
			return nil, err
		}
	}
	connector, err := mysql.NewConnector(conn)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

// silent keeps the driver from writing to standard error what it returns as an error, too.
type silent struct{}

func (silent) Print(...any) {}

// secureMySQL sees to TLS with the server at host, and that secrets are not given to others.
func secureMySQL(cfg Config, conn *mysql.Config, host string) error {
	if cfg.CAFile != "" {
		roots, err := trust.ReadRoots(cfg.CAFile)
		if err != nil {
			return fmt.Errorf("CA file: %w", err)
		}
		conn.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		conn.AllowFallbackToPlaintext = false // of tls=preferred
	}
	if conn.TLS != nil {
		conn.TLS.ServerName = host // the driver's is that of an address which it did not know yet
	}
	if conn.Net == "unix" || cfg.Unverified {
		return nil
	}
	if err := trust.CheckSecrecy(host, conn.TLS); err != nil {
		return fmt.Errorf("%w: use tls=true", err)
	}
	return nil
}

// openSQLite opens the file for reading only: one that does not exist is not made.
func openSQLite(cfg Config) (*sql.DB, error) {
	path := strings.TrimPrefix(strings.TrimPrefix(cfg.URL, "sqlite:"), "//")
	if path == "" {
		return nil, errors.New("no file: sqlite:PATH")
	}
	name := (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath()}).String()
	return sql.Open("sqlite", name+"?mode=ro&_pragma=query_only(1)&_pragma=busy_timeout(1000)")
}
