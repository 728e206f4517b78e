// Package config is the one table of odmrd's flags: a tagged struct from which --help, the
// README's table, the environment names, the configuration file, --print-config and
// validation all come. A setting that is not a field of Config does not exist.
//
// Where a value comes from, strongest first: the flag, the environment variable ODMRD_…
// (the flag's name in capitals, - as _), the YAML file named by --config (the flag's name as
// key), the default. Load reports every problem of a configuration at once, each with the
// flag's name and where the value came from; it never stops at the first.
//
// The package reads its arguments, its environment and that one file. It must never open a
// socket or a store, and nothing here changes after Load has returned.
package config

import (
	"net/netip"
	"time"

	"github.com/alecthomas/kong"

	"odmr/internal/units"
)

// Size is a number of octets; see units.Size.
type Size = units.Size

// Config is the configuration of odmrd. Tags: help, placeholder and group as in kong; default
// is the text that would be given as the flag; min and max bound the value, in the same text
// form; file:"-" keeps a flag out of the environment, the file and --print-config.
type Config struct {
	Help        bool   `group:"run" file:"-" help:"Show this help and exit."`
	Version     bool   `group:"run" file:"-" help:"Show the version and exit."`
	ConfigFile  string `group:"run" file:"-" name:"config" placeholder:"FILE" help:"YAML file with flag names as keys. A flag on the command line or in the environment wins over it; an unknown key is an error."`
	PrintConfig bool   `group:"run" file:"-" help:"Show the effective configuration as YAML, fit to be given back with --config, and exit."`

	Hostname string   `group:"server" placeholder:"NAME" help:"Name in greetings, EHLO, Received fields and CRAM-MD5 challenges. Customers' logs show it, so give the public name; without it the machine's host name is used."`
	Data     string   `group:"server" default:"/var/lib/odmr" placeholder:"DIR" help:"Directory of the queue and the control socket, made if missing (mode 0700). Held mail lives here: ext4 or xfs with journalling, on a disk that keeps what it has synced."`
	Accounts Accounts `group:"server" default:"/etc/odmr/accounts" placeholder:"FILE|URL" help:"Accounts file, written by odmrctl and read again when it changes or on SIGHUP. Or where the accounts are: postgres://, mysql://, sqlite:PATH, ldap://, ldaps:// or ldapi://."`
	User     string   `group:"server" placeholder:"USER[:GROUP]" help:"User (and group, else the user's own) to become once every port is open, for a server started by root. Supplementary groups and capabilities go. All files are opened afterwards, as this user."`

	AccountsPasswordFile    string          `group:"accounts" placeholder:"FILE" help:"Password of the database's user or of --accounts-bind, read for each new connection. Better than in the URL, which everybody on the machine may see."`
	AccountsCache           time.Duration   `group:"accounts" default:"1m" min:"0s" max:"24h" help:"How long an account that was found is remembered, and so how long a change may take to be in effect; SIGHUP forgets all. 0s asks every time."`
	AccountsCacheNegative   time.Duration   `group:"accounts" default:"10s" min:"0s" max:"24h" help:"The same for what was not found, and how old a remembered account may be that a refused domain or password rests on."`
	AccountsCacheEntries    int             `group:"accounts" default:"100000" min:"1000" max:"10000000" help:"Accounts that are remembered, and as many domains, about 1 KiB each; and ten times as many listed recipients. Names that there are not have room of their own, for as many. Those longest unused make way."`
	AccountsStale           time.Duration   `group:"accounts" default:"15m" min:"0s" max:"168h" help:"How much longer a remembered account serves while the database or directory is down. What is not remembered gets 454 or 451 meanwhile."`
	AccountsTimeout         time.Duration   `group:"accounts" default:"5s" min:"100ms" max:"1m" help:"How long one lookup may take before the database or directory counts as down."`
	AccountsConnections     int             `group:"accounts" default:"16" min:"1" max:"1000" help:"Connections for lookups at once."`
	AccountsCA              string          `group:"accounts" name:"accounts-ca" placeholder:"FILE" help:"CAs in PEM that the server's certificate is verified against, for LDAP in place of the system's, for MySQL (which it makes use TLS). PostgreSQL takes sslrootcert in the URL."`
	AccountsUnverified      bool            `group:"accounts" help:"Let a database or LDAP directory on another machine do without TLS, or with a certificate that is not verified. Whoever is on the line reads customers' keys then, or answers in its place: for lines of your own only."`
	AccountsQueryAccount    string          `group:"accounts" placeholder:"SQL" help:"Query for the account called :name, with columns name, secrets, password, settings. Without this and the next two the tables are those of odmrctl account schema."`
	AccountsQueryDomains    string          `group:"accounts" placeholder:"SQL" help:"Query for the domains of the account called :name; one column."`
	AccountsQueryOwners     string          `group:"accounts" placeholder:"SQL" help:"Query for which account may collect each domain IN (:domains); columns domain and account's name."`
	AccountsQueryIdentities string          `group:"accounts" placeholder:"SQL" help:"Query for which account is known by each identity IN (:identities), a text as cert-dns gw.example.org or network 192.0.2.32/29; columns identity and account's name. Without it EXTERNAL is not offered, with it to everybody."`
	AccountsQueryRecipients string          `group:"accounts" placeholder:"SQL" help:"Query for the recipients that mail is taken for in the domains of the account called :name; one column, of user@domain or @domain. Without it there are no lists. Where it cannot be answered, mail is taken for all."`
	AccountsBind            string          `group:"accounts" placeholder:"DN" help:"DN to bind to the LDAP directory with, and --accounts-password-file; or EXTERNAL, on ldapi:// as the server's user. Without it the bind is anonymous."`
	AccountsStartTLS        bool            `group:"accounts" name:"accounts-starttls" help:"Use StartTLS with ldap://."`
	AccountsAttributes      []AttributeRule `group:"accounts" placeholder:"WHAT=ATTRIBUTE" help:"Attributes of an account's entry. Default: name=uid, domain=odmrDomain, secret=odmrSecret, setting=odmrSetting, and no identity and password (as identity=odmrIdentity, which makes EXTERNAL be offered to everybody, password=userPassword; and no recipient, as recipient=odmrRecipient: the list of recipients that mail is taken for)."`

	ODMRListen  []Listen `group:"listen" name:"odmr-listen" default:":366" placeholder:"ADDR" help:"Addresses (host:port) for customers: ODMR with ATRN. 366 is the port of RFC 2645 and needs CAP_NET_BIND_SERVICE; port 0 takes a free one."`
	ODMRSListen []Listen `group:"listen" name:"odmrs-listen" placeholder:"ADDR" help:"Addresses for customers that begin with TLS at once (fetchmail's ssl); needs --tls-cert. There is no registered port; STARTTLS on the other listeners needs none."`
	SMTPListen  []Listen `group:"listen" name:"smtp-listen" default:"127.0.0.1:2525" placeholder:"ADDR" help:"Addresses for MTAs that hand in mail over SMTP. Local by default because mail is taken without a password."`
	LMTPListen  []Listen `group:"listen" name:"lmtp-listen" default:"127.0.0.1:2424" placeholder:"ADDR" help:"Addresses for MTAs that hand in mail over LMTP, with a reply per recipient. Local by default for the same reason."`
	AdminListen []Listen `group:"listen" default:"127.0.0.1:8366" placeholder:"ADDR" help:"Addresses of the HTTP server with /metrics, /healthz, /readyz and /debug/pprof. It asks for no password, so keep it local."`
	AdminHosts  []Host   `group:"listen" placeholder:"NAME" help:"Names by which that server is asked, besides addresses, localhost, --hostname and the names in --admin-listen. Under any other name it answers 421: else a web page could read it through the browser of somebody who may reach it."`

	TLSCert             []string      `group:"tls" name:"tls-cert" placeholder:"FILE" help:"Certificate chains in PEM, the server's own first. Given together with as many --tls-key; clients get the one whose names fit what they ask for (SNI), else the first. With one, STARTTLS is offered on every listener. Read again on SIGHUP and when the files change; a broken pair keeps the old one in use."`
	TLSKey              []string      `group:"tls" name:"tls-key" placeholder:"FILE" help:"Private keys in PEM, in the order of --tls-cert."`
	TLSMinVersion       string        `group:"tls" name:"tls-min-version" default:"1.2" placeholder:"VERSION" choices:"1.2,1.3" help:"Least version of TLS: 1.2 or 1.3. Nothing older is spoken; the ciphers are those that Go holds for secure."`
	TLSRequired         []TLSRule     `group:"tls" name:"tls-required" placeholder:"ROLE=WHEN" help:"What is refused in clear text, per role (odmr, smtp, lmtp): none, auth (no login: AUTH is not offered) or all (nothing but NOOP, EHLO, STARTTLS and QUIT; also meant by the role's name alone). Default: none, as fetchmail knows no STARTTLS here."`
	TLSClientCA         string        `group:"tls" name:"tls-client-ca" placeholder:"FILE" help:"CAs in PEM that customers' certificates are verified against, for EXTERNAL. With it clients are asked for a certificate; one that does not verify, or none, only means that EXTERNAL is not possible. Read again like --tls-cert."`
	TLSHandshakeTimeout time.Duration `group:"tls" name:"tls-handshake-timeout" default:"${handshake_timeout}" min:"1s" max:"10m" help:"How long a TLS handshake may take from the connection or from STARTTLS."`

	TrustedNetworks     []netip.Prefix `group:"mail" default:"127.0.0.0/8,::1/128" placeholder:"CIDR" help:"Networks whose clients may hand in mail; all others are refused with 550 5.7.1. Only this machine by default; empty trusts nobody."`
	MaxMessageSize      Size           `group:"mail" default:"50MiB" min:"64KiB" max:"2GiB" help:"Largest message taken, in octets before dot-stuffing, announced with SIZE. Larger ones are refused with 552; 50MiB passes what large mailbox providers pass."`
	MaxRecipients       int            `group:"mail" default:"${max_recipients}" min:"100" max:"100000" help:"Recipients of one message; more are refused with 452 and come in another transaction. RFC 5321 asks for at least 100."`
	LearnRecipients     string         `group:"mail" default:"on" placeholder:"ON" choices:"on,off" help:"Whether recipients that a customer's own server does not know (550 5.1.1 to RCPT) are refused here too while it is away. One acceptance clears them. Accounts with a list of recipients go by that."`
	LearnedLifetime     time.Duration  `group:"mail" default:"7d" min:"1h" max:"365d" help:"How long such a recipient is remembered."`
	LearnedPerDomain    int            `group:"mail" default:"1000" min:"1" max:"100000" help:"How many of them for one domain; the oldest make way. About 60 octets each."`
	RecipientDelimiters string         `group:"mail" default:"+" placeholder:"CHARACTERS" help:"Characters behind which a local part is a detail, so that user+tag is taken where user is listed. Empty: none."`

	SASLMechanisms []string `group:"login" name:"sasl-mechanisms" default:"${mechanisms}" placeholder:"NAME" help:"SASL mechanisms offered to customers, in this order. RFC 2645 makes CRAM-MD5 mandatory and fetchmail uses nothing else; leave it out only where every customer has something stronger. PLAIN, LOGIN and SCRAM-SHA-256-PLUS are offered under TLS only, EXTERNAL to those whose certificate or network stands in an account."`

	ShieldRefusals    int           `group:"shield" default:"${shield_refusals}" min:"0" max:"1000" help:"The bounce shield: when a customer's server refuses more than so many of its last --shield-window messages for good (5xx), the session ends, and what it refused is held until odmrctl queue release or bounce. 0 switches it off. A server that knows nobody is broken rather than right, and a bounce cannot be taken back."`
	ShieldWindow      int           `group:"shield" default:"${shield_window}" min:"2" max:"1000" help:"Messages that this share is taken of. So many refused ones are kept back at a time until they are known to be in order."`
	OnBusy            string        `group:"collect" default:"takeover" placeholder:"WHAT" choices:"takeover,refuse" help:"What becomes of ATRN for a domain that another session of the customer is draining. takeover: that session ends, for its line is most likely gone without TCP having noticed. refuse: 451."`
	TakeoverInterval  time.Duration `group:"collect" default:"1m" min:"0s" max:"24h" help:"How long a session that took over keeps its place; others get 451 meanwhile. Without it two that are both alive would end each other again and again."`
	Linger            time.Duration `group:"collect" default:"0s" min:"0s" max:"24h" help:"How long a customer's session stays open once all is collected, counted from the last message. Mail that comes goes out at once, and ATRN with nothing queued is answered by 250. 0 means that the session ends by QUIT."`
	LingerNoop        time.Duration `group:"collect" default:"${keep_alive}" min:"1s" max:"24h" help:"Silence after which a session that stays open says NOOP. Postfix hangs up on a silent client after 5m, and takes 100 NOOP: after ${max_noops} without a message the session ends by QUIT. Servers that take fewer end it themselves, and nothing is lost."`
	ATRNWait          time.Duration `group:"collect" name:"atrn-wait" default:"0s" min:"0s" max:"25s" help:"How long ATRN with nothing queued waits for mail before it is answered by 453. Some clients give up after 30s. It does not count where the session would stay open."`
	ATRNInterval      time.Duration `group:"collect" name:"atrn-interval" default:"0s" min:"0s" max:"24h" help:"Least time between two ATRN of an account that bring all there is in a domain. A session that was cut short does not count. 0 means no limit."`
	ATRNIntervalReply string        `group:"collect" name:"atrn-interval-reply" default:"453" placeholder:"CODE" choices:"453,450" help:"Reply to an ATRN that comes too soon. 453 is no mail for every client; 450 is what RFC 2645 has for it, and an error for fetchmail."`

	ODMRNetworks         []netip.Prefix `group:"abuse" name:"odmr-networks" placeholder:"CIDR" help:"Networks that customers may come from, RFC 2645 8; others get 554 in place of the greeting. Empty means from everywhere."`
	ProxyNetworks        []netip.Prefix `group:"abuse" placeholder:"CIDR" help:"Networks of balancers: a connection from there, to any listener, must begin with a PROXY header (version 1 or 2), and the address in it counts as the client's everywhere. From elsewhere headers are not understood."`
	LimitExempt          []netip.Prefix `group:"abuse" default:"127.0.0.0/8,::1/128" placeholder:"CIDR" help:"Networks for whose clients no limit below that goes by address counts. Neither do these limits for --trusted-networks where they hand in mail. This machine by default."`
	SessionsPerAddress   int            `group:"abuse" default:"100" min:"0" max:"1000000" help:"Sessions at once from one address, in IPv6 from one /64; more get 421 4.7.0. 0 means no limit. Customers may share an address behind carrier-grade NAT."`
	SessionsPerAccount   int            `group:"abuse" default:"20" min:"0" max:"1000000" help:"Logged-in sessions at once of one account, from wherever; more get 421 4.7.0 on login. 0 means no limit. One more is let in while one collects, so that it can take over from it. Each domain is drained by one session at a time, so few are needed."`
	ConnectionsPerMinute int            `group:"abuse" default:"240" min:"0" max:"1000000" help:"Connections from one address (IPv6: /64) in a minute; so many may come at once, and then at this rate. More get 421 4.7.0. 0 means no limit."`
	LoginCommands        int            `group:"abuse" default:"50" min:"0" max:"1000000" help:"Commands of a customer before the login, then 421 4.7.0. 0 means no limit but --login-timeout."`
	SessionErrors        int            `group:"abuse" default:"${session_errors}" min:"3" max:"1000000" help:"Refused commands (5xx) of a session, then 421 4.7.0; where mail is handed in, without an accepted message in between. Mailing lists with many stale addresses need some room."`
	LeastRate            int            `group:"abuse" default:"20" min:"0" max:"1000000" help:"Octets a second of a message that a peer must send or take, averaged over --rate-window; slower ones get 421 4.4.2 or are cut off. Time-outs alone would let one octet now and then hold a session and its memory for ever. Any modem is faster, as is mail over HF radio at its best. 0 means no limit."`
	RateWindow           time.Duration  `group:"abuse" default:"${rate_window}" min:"1s" max:"24h" help:"Time that --least-rate is averaged over. A line that is lost for a while and comes back should not count."`
	AuthFailures         int            `group:"abuse" default:"10" min:"0" max:"1000000" help:"Failed logins at one account from one address (IPv6: /64) until that account is locked for that address, and for no other, so that strangers cannot lock a customer out. 0 means never."`
	AuthLockout          time.Duration  `group:"abuse" default:"15m" min:"1s" max:"168h" help:"How long such a lock lasts: logins get 421 4.7.0 unseen. Failures further apart than this do not add up."`
	AuthDelay            time.Duration  `group:"abuse" default:"1s" min:"0s" max:"30s" help:"Wait before the reply to the first failed login at an account from an address, doubled with each further one up to 30s."`

	Retention     time.Duration `group:"held" default:"5d" min:"1m" max:"365d" help:"How long mail waits for its customer; then it expires and goes back to its sender. RFC 5321 4.5.4.1 asks for 4 to 5 days at least."`
	DelayNotice   OffDuration   `group:"held" default:"4h" min:"off" max:"365d" placeholder:"DURATION" help:"After how long senders are told, once, that their mail still waits; off: never. Only those who did not ask for less hear of it (NOTIFY). Where customers come once a day it should be off, or longer than a day."`
	Bounce        string        `group:"held" default:"on" placeholder:"ON" choices:"on,off" help:"Whether senders are told of mail that failed or expired. off: what customers refused is kept until its retention is over, for odmrctl to show, and then discarded with a line in the log, as is what expires."`
	QuotaMessages int           `group:"held" default:"0" min:"0" max:"1000000000" help:"Messages held for one account, all its domains together; more are refused at RCPT. 0 means no limit."`
	QuotaBytes    Size          `group:"held" default:"0" min:"0" max:"1PiB" help:"Octets held for one account, all its domains together; likewise. What comes in at the same moment may exceed it a little."`
	QuotaReply    string        `group:"held" default:"452" placeholder:"CODE" choices:"452,552" help:"Reply to mail over a quota. 452 4.2.2: the MX keeps it and tries again. 552 5.2.2: it goes back to its sender at once."`

	Smarthost             string `group:"reports" placeholder:"HOST:PORT" help:"Mail server that takes reports to senders (bounces, delay notices) for the outside. Without it they wait in a queue of their own until --retention is over. Those to domains held here never leave the server."`
	SmarthostTLS          string `group:"reports" name:"smarthost-tls" default:"opportunistic" placeholder:"MODE" choices:"none,opportunistic,required,implicit" help:"opportunistic: STARTTLS where it is offered, whatever the certificate. required: STARTTLS, with a certificate that is good for the smarthost's name. implicit: TLS from the first octet, likewise. none: clear text."`
	SmarthostCA           string `group:"reports" name:"smarthost-ca" placeholder:"FILE" help:"CAs in PEM that the smarthost's certificate is verified against, instead of those of the system. Read again for each connection."`
	SmarthostUser         string `group:"reports" placeholder:"NAME" help:"User for AUTH at the smarthost (PLAIN or LOGIN); needs required or implicit unless the smarthost is this machine."`
	SmarthostPasswordFile string `group:"reports" placeholder:"FILE" help:"File with that user's password, one line. Read again for each connection."`

	MaxSessions    int    `group:"memory" default:"0" min:"0" max:"1000000" help:"Connections at once over all listeners; more get 421. The last eighth is not for a network (/24, IPv6: /48) that has its share of them, or more. Each costs a file descriptor: 0 means ${max_sessions}, or fewer where the limit of open files is low; a larger number than that limit has room for is an error."`
	Loops          int    `group:"memory" default:"0" min:"0" max:"256" help:"Event loops; 0 means one per CPU, which suits nearly every machine."`
	Scheduling     string `group:"memory" default:"batch" placeholder:"HOW" choices:"batch,normal" help:"How the server gets a processor on a busy machine. batch (SCHED_BATCH): whoever is at work goes on for a moment, and what has come for many sessions meanwhile is served at one go, for a quarter less of processor time. normal: the server takes the processor at once, for each octet that comes."`
	Workers        int    `group:"memory" default:"0" min:"0" max:"65536" help:"Goroutines for whatever blocks (disk, TLS handshakes); 0 lets the server choose. More workers mean more commits per disk sync."`
	PrefetchMemory Size   `group:"memory" default:"256MiB" min:"4MiB" max:"1TiB" help:"Memory for bodies on their way to customers, all sessions together, in octets. A session that finds none left waits its turn, so slow customers cannot take more."`
	IngestMemory   Size   `group:"memory" default:"256MiB" min:"4MiB" max:"1TiB" help:"Memory for bodies on their way to the disk, all sessions together, in octets. When it is used up reading pauses, and senders wait."`
	WindowMessages int    `group:"memory" default:"${window_messages}" min:"1" max:"10000" help:"Messages that one customer's session may have sent without their outcomes being on disk. A larger window hides long lines and slow disks; after a crash at most so many are sent again."`
	WindowBytes    Size   `group:"memory" default:"${window_bytes}" min:"64KiB" max:"1TiB" help:"Octets of those messages on the wire. One message is always allowed, whatever its size."`
	StoreCache     Size   `group:"memory" default:"16MiB" min:"1MiB" max:"1TiB" help:"Memory of the queue's block cache, in octets. It is for the index: mail is written once and read once, so that a larger cache gains nothing."`
	StoreMemtable  Size   `group:"memory" default:"32MiB" min:"1MiB" max:"2GiB" help:"Size of one of the queue's memtables, in octets; up to twelve exist while flushes lag and slow customers hold on to them. Mail collected before its memtable is flushed never costs more than the log."`
	MinFreeSpace   Size   `group:"memory" default:"512MiB" min:"1MiB" max:"1PiB" help:"Free space on the data directory's disk below which new mail gets 452 4.3.1, while draining goes on, in octets. It keeps room for the log, for memtables on their way to the disk and for compactions, which free space: with larger memtables set it to 256 MiB and eight of them."`

	LoginTimeout     time.Duration `group:"time" default:"${login_timeout}" min:"1s" max:"1h" help:"How long a customer may take from connecting to being authenticated. Strangers should not hold connections for long."`
	CommandTimeout   time.Duration `group:"time" default:"${command_timeout}" min:"1s" max:"24h" help:"How long a server session waits for the peer's next command (RFC 5321 4.5.3.2.7)."`
	GreetingTimeout  time.Duration `group:"time" default:"${greeting_timeout}" min:"1s" max:"24h" help:"How long to wait for the customer's 220 after the turn (RFC 5321 4.5.3.2.1); some servers greet late on purpose."`
	EnvelopeTimeout  time.Duration `group:"time" default:"${envelope_timeout}" min:"1s" max:"24h" help:"How long to wait for the reply to EHLO, MAIL or RCPT (RFC 5321 4.5.3.2.2, 4.5.3.2.3)."`
	DataInitTimeout  time.Duration `group:"time" default:"${data_init_timeout}" min:"1s" max:"24h" help:"How long to wait for the reply to DATA (RFC 5321 4.5.3.2.4)."`
	DataBlockTimeout time.Duration `group:"time" default:"${data_block_timeout}" min:"1s" max:"24h" help:"How long a peer may take to accept, or to send, a further piece of a body (RFC 5321 4.5.3.2.5)."`
	DataDoneTimeout  time.Duration `group:"time" default:"${data_done_timeout}" min:"1s" max:"24h" help:"How long to wait for the reply to the final dot (RFC 5321 4.5.3.2.6); content filters take minutes, and giving up early sends the message twice."`
	QuitTimeout      time.Duration `group:"time" default:"${quit_timeout}" min:"1s" max:"1h" help:"How long to wait for the reply to QUIT; nothing depends on it."`
	ShutdownGrace    time.Duration `group:"time" default:"30s" min:"0s" max:"1h" help:"How long running transactions may go on after SIGTERM before their connections are closed. Nothing is lost either way; a cut transaction is done again."`

	LogLevel  string `group:"log" default:"info" placeholder:"LEVEL" choices:"trace,debug,info,warn,error" help:"Least level that is logged (on standard error): trace, debug, info, warn or error. info gives one line per session and per message."`
	LogFormat string `group:"log" default:"json" placeholder:"FORMAT" choices:"json,console" help:"json for machines, console for people."`
}

// groups are the headings of --help and of the README's table, in order.
var groups = []kong.Group{
	{Key: "run", Title: "General"},
	{Key: "server", Title: "Server"},
	{Key: "accounts", Title: "Accounts in a database or directory", Description: "For --accounts with a URL. Without effect on an accounts file."},
	{Key: "listen", Title: "Listeners", Description: "Each of these may be repeated, or name several addresses separated by commas. An empty value takes back those before it: alone it switches the listener off."},
	{Key: "tls", Title: "TLS"},
	{Key: "mail", Title: "Incoming mail"},
	{Key: "login", Title: "Customers' login"},
	{Key: "shield", Title: "Bounce shield"},
	{Key: "collect", Title: "Collecting", Description: "linger and atrn-interval may be set for an account, too."},
	{Key: "abuse", Title: "Limits against abuse"},
	{Key: "held", Title: "Held mail", Description: "Except --quota-reply, each of these may be set for an account, too (odmrctl account set), as may its maximum message size, vacation (hold) and small-first."},
	{Key: "reports", Title: "Reports to senders"},
	{Key: "memory", Title: "Capacity"},
	{Key: "time", Title: "Time-outs"},
	{Key: "log", Title: "Log"},
}
