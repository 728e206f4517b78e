-- Accounts of the on-demand mail relay for SQLite. Names are case-sensitive; domains are lower-case A-labels.
CREATE TABLE odmr_accounts (
  name     text PRIMARY KEY NOT NULL CHECK (name <> ''),
  secrets  text,  -- lines that odmrctl account secrets writes: as good as the password
  password text,  -- in clear, where there is no other way
  settings text   -- own-hostname; retention 5d; ...
);
CREATE TABLE odmr_domains (
  domain  text PRIMARY KEY NOT NULL CHECK (domain = lower(domain)),
  account text NOT NULL REFERENCES odmr_accounts (name) ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE INDEX odmr_domains_account ON odmr_domains (account);
-- For EXTERNAL, with --accounts-query-identities: cert-dns gw.example.org, network 192.0.2.32/29, ...
CREATE TABLE odmr_identities (
  identity text PRIMARY KEY NOT NULL,
  account  text NOT NULL REFERENCES odmr_accounts (name) ON UPDATE CASCADE ON DELETE CASCADE
);
-- For --accounts-query-recipients: user@example.org, or @example.org for all. Others in these domains are refused.
CREATE TABLE odmr_recipients (
  recipient text NOT NULL,
  account   text NOT NULL REFERENCES odmr_accounts (name) ON UPDATE CASCADE ON DELETE CASCADE,
  PRIMARY KEY (account, recipient)
);
