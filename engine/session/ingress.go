package session

// Ingress is the server side of SMTP (RFC 5321) and LMTP (RFC 2033): it takes mail in.
type Ingress struct {
	cfg  *IngressConfig
	peer IngressPeer
}
