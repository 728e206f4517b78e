package listening

import (
	"reflect"
	"testing"
)

func TestFind(t *testing.T) {
	const log = `not JSON
{"level":"info","message":"accounts read"}
{"level":"info","odmr":["0.0.0.0:366"],"smtp":["127.0.0.1:2525","[::1]:2525"],"lmtp":[],"admin":["127.0.0.1:8366"],"pid":4711,"message":"listening"}
{"odmr":["later"],"message":"listening"}
`
	want := Line{Addrs{ODMR: []string{"0.0.0.0:366"}, SMTP: []string{"127.0.0.1:2525", "[::1]:2525"}, LMTP: []string{}, Admin: []string{"127.0.0.1:8366"}}, 4711}
	if got, ok := Find([]byte(log)); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, ok)
	}
	if got, ok := Find([]byte(log[:80])); ok {
		t.Errorf("%+v before there is one", got)
	}
}
