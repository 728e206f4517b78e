package session

import (
	"odmr/codec"
)

// ingressStates is a set of states.
type ingressStates uint8

func ingressIn(states ...ingressState) (set ingressStates) {
	for _, st := range states {
		set |= 1 << st
	}
	return set
}

func (set ingressStates) has(st ingressState) bool { return set&(1<<st) != 0 }

// Sets of states in which commands arrive (ingressData is none: there, all is content).
var (
	ingressAnywhere = ingressIn(ingressHello, ingressReady, ingressMail, ingressRcpt, ingressBdat)
)

// ingressCommand is one row of the command table. A command is first judged by states (503), then by
// check, which may refuse and changes nothing, then carried out by apply.
type ingressCommand struct {
	states ingressStates
	// last: what a client glues behind this command before it has seen the reply is content
	// (RFC 2920 3.1 lets it come last in a group only). If the command is refused and no command
	// follows, what follows was content: the session ends, lest a line of it be taken for a
	// command. The other commands that RFC 2920 wants last (EHLO, VRFY, NOOP, QUIT) do no
	// harm elsewhere, and are answered in order.
	last   bool
	ahead  bool                                // may be carried out while messages are being committed
	orphan bool                                // follows a MAIL in its group
	clear  bool                                // allowed in clear text even where everything else needs TLS (RFC 3207 4)
	check  func(s *Ingress, arg []byte) *reply // nil: nothing to refuse
	apply  func(s *Ingress, arg []byte, out *Output)
}

// ingressTable has a row for every verb that is known; a verb without apply is refused by its check.
var ingressTable = [codec.NumVerbs]ingressCommand{
	codec.VerbUnknown:  {states: ingressAnywhere, check: refuseUnknown},
	codec.VerbEHLO:     {states: ingressAnywhere, clear: true, check: checkHelloSMTP, apply: applyEHLO},
	codec.VerbHELO:     {states: ingressAnywhere, check: checkHelloSMTP, apply: applyHELO},
	codec.VerbLHLO:     {states: ingressAnywhere, clear: true, check: checkHelloLMTP, apply: applyLHLO},
	codec.VerbMAIL:     {states: ingressIn(ingressReady), ahead: true, check: checkMail, apply: applyMail},
	codec.VerbRCPT:     {states: ingressIn(ingressMail, ingressRcpt), ahead: true, orphan: true, check: checkRcpt, apply: applyRcpt},
	codec.VerbDATA:     {states: ingressIn(ingressMail, ingressRcpt), ahead: true, orphan: true, check: checkData, apply: applyData, last: true},
	codec.VerbBDAT:     {states: ingressIn(ingressRcpt, ingressBdat), ahead: true, apply: applyBdat},
	codec.VerbRSET:     {states: ingressAnywhere, ahead: true, check: checkNoArgument, apply: applyRset},
	codec.VerbNOOP:     {states: ingressAnywhere, ahead: true, clear: true, apply: applyNoop}, // RFC 5321 4.1.1.9: an argument is ignored
	codec.VerbVRFY:     {states: ingressAnywhere, check: checkVrfy, apply: applyVrfy},
	codec.VerbHELP:     {states: ingressAnywhere, apply: applyHelp},
	codec.VerbQUIT:     {states: ingressAnywhere, clear: true, check: checkNoArgument, apply: applyQuit},
	codec.VerbEXPN:     {states: ingressAnywhere, check: refuseNotOffered},
	codec.VerbAUTH:     {states: ingressAnywhere, check: refuseNotOffered},
	codec.VerbSTARTTLS: {states: ingressAnywhere, clear: true, check: checkStartTLS, apply: applyStartTLS},
	codec.VerbATRN:     {states: ingressAnywhere, check: refuseNotOffered},
	codec.VerbETRN:     {states: ingressAnywhere, check: refuseNotOffered},
	codec.VerbTURN:     {states: ingressAnywhere, check: refuseNotOffered},
	codec.VerbXFORWARD: {states: ingressIn(ingressReady), ahead: true, check: checkXForward, apply: applyXForward},
}

// command handles one command. It reports false, and does nothing, where that has to wait for its turn.
func (s *Ingress) command(verb codec.Verb, arg []byte, out *Output) bool {
	if s.early && verb == codec.VerbUnknown {
		s.end(out, replyEarlyContent, "content before 354")
		return true
	}
	row := &ingressTable[verb]
	if verb == codec.VerbBDAT {
		return s.bdat(row, arg, out)
	}
	refusal := s.judge(row, arg)
	if s.must(row, refusal != nil) {
		return false
	}
	s.early = false
	switch {
	case refusal == replyBadSequence && s.orphans > 0 && row.orphan:
		s.orphans--
		s.early = row.last
		s.say(out, refusal)
		return true
	case refusal != nil:
		if verb == codec.VerbMAIL && refusal != replyBadSequence && refusal != replyUntrusted {
			s.orphans = s.cfg.MaxRecipients + 1
		}
		s.early = row.last
		s.refuse(out, refusal)
		return true
	}
	row.apply(s, arg, out)
	return true
}

// judge says why a command is refused, or nil.
func (s *Ingress) judge(row *ingressCommand, arg []byte) *reply {
	if !row.clear && !s.secure && s.cfg.TLSPolicy == TLSForAll {
		return replyTLSFirst
	}
	if !row.states.has(s.state) {
		return replyBadSequence
	}
	if row.check == nil {
		return nil
	}
	refusal := row.check(s, arg)
	if refusal != nil {
		s.forgetLine()
	}
	return refusal
}

// bdat begins a chunk. Its octets follow whether it is refused or not (RFC 3030 2), and where
// their number cannot be read nobody can tell content from commands any more.
func (s *Ingress) bdat(row *ingressCommand, arg []byte, out *Output) bool {
	size, last, err := codec.ParseBDAT(arg)
	refusal := s.judge(row, arg)
	if s.must(row, err != nil || refusal != nil) {
		return false
	}
	s.early = false
	if err != nil {
		s.end(out, replySyntax(err), "BDAT without a size")
		return true
	}
	s.chunk = ingressChunk{reading: true, last: last, size: size, left: size, refusal: refusal}
	if s.chunk.refusal == nil {
		row.apply(s, arg, out)
	} else { // it is timed by itself
		s.pace = ingressPace{since: s.now}
	}
	if size == 0 {
		s.endChunk(out)
		return true
	}
	s.expect(s.cfg.DataTimeout)
	return true
}

func refuseUnknown(*Ingress, []byte) *reply    { return replyUnknown }
func refuseNotOffered(*Ingress, []byte) *reply { return replyNotOffered }

func checkNoArgument(_ *Ingress, arg []byte) *reply {
	if len(arg) > 0 {
		return replyNoArgument
	}
	return nil
}

func checkHelloSMTP(s *Ingress, arg []byte) *reply {
	if s.cfg.Mode == IngressLMTP {
		return replySayLHLO
	}
	return checkHello(arg)
}

func checkHelloLMTP(s *Ingress, arg []byte) *reply {
	if s.cfg.Mode != IngressLMTP {
		return replySayEHLO
	}
	return checkHello(arg)
}

func checkHello(arg []byte) *reply {
	name, err := codec.ParseHello(arg)
	if err != nil || isHigh(name) { // RFC 6531 3.7.1: A-labels only, for SMTPUTF8 was not negotiated yet
		return (*reply)(codec.ErrHello)
	}
	return nil
}

// isHigh reports whether b is not ASCII.
func isHigh(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return true
		}
	}
	return false
}

func applyEHLO(s *Ingress, arg []byte, out *Output) { s.greet(codec.VerbEHLO, arg, out) }
func applyHELO(s *Ingress, arg []byte, out *Output) { s.greet(codec.VerbHELO, arg, out) }
func applyLHLO(s *Ingress, arg []byte, out *Output) { s.greet(codec.VerbLHLO, arg, out) }

// greet takes the client's name; a transaction that was open is dropped (RFC 5321 4.1.4).
func (s *Ingress) greet(verb codec.Verb, arg []byte, out *Output) {
	name, _ := codec.ParseHello(arg)
	s.name = append(s.name[:0], name...)
	s.hello = verb
	s.state = ingressReady
	s.drop(out)
	s.expect(s.cfg.CommandTimeout)
	if verb == codec.VerbHELO {
		out.Reply = codec.AppendReply(out.Reply, 250, "", s.cfg.Hostname)
		return
	}
	out.Reply = appendIngressEHLO(out.Reply, s.cfg.Hostname, s.cfg.MaxMessageSize, s.cfg.StartTLS && !s.secure, s.peer.Trusted)
}

func applyRset(s *Ingress, _ []byte, out *Output) {
	s.drop(out)
	s.say(out, replyOK)
}

func applyNoop(s *Ingress, _ []byte, out *Output) { s.say(out, replyOK) }
func applyHelp(s *Ingress, _ []byte, out *Output) { s.say(out, replyHelp) }
func applyVrfy(s *Ingress, _ []byte, out *Output) { s.say(out, replyVerify) }
func applyQuit(s *Ingress, _ []byte, out *Output) { s.end(out, replyBye, "QUIT") }

func checkVrfy(_ *Ingress, arg []byte) *reply {
	if len(arg) == 0 {
		return replyVerifyWhom
	}
	return nil
}
