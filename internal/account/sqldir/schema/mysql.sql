-- Accounts of the on-demand mail relay for MariaDB and MySQL. Names are case-sensitive; domains are lower-case A-labels.
CREATE TABLE odmr_accounts (
  name     varchar(255) NOT NULL PRIMARY KEY,
  secrets  text,  -- lines that odmrctl account secrets writes: as good as the password
  password varchar(1024),  -- in clear, where there is no other way
  settings text   -- own-hostname; retention 5d; ...
) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
CREATE TABLE odmr_domains (
  domain  varchar(253) NOT NULL PRIMARY KEY,
  account varchar(255) NOT NULL,
  FOREIGN KEY (account) REFERENCES odmr_accounts (name) ON UPDATE CASCADE ON DELETE CASCADE
) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
-- For EXTERNAL, with --accounts-query-identities: cert-dns gw.example.org, network 192.0.2.32/29, ...
CREATE TABLE odmr_identities (
  identity varchar(400) NOT NULL PRIMARY KEY,
  account  varchar(255) NOT NULL,
  FOREIGN KEY (account) REFERENCES odmr_accounts (name) ON UPDATE CASCADE ON DELETE CASCADE
) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
-- For --accounts-query-recipients: user@example.org, or @example.org for all. Others in these domains are refused.
CREATE TABLE odmr_recipients (
  recipient varchar(254) NOT NULL,
  account   varchar(255) NOT NULL,
  PRIMARY KEY (account, recipient),
  FOREIGN KEY (account) REFERENCES odmr_accounts (name) ON UPDATE CASCADE ON DELETE CASCADE
) ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
