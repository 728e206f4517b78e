package recipients

import "testing"

func TestListed(t *testing.T) {
	list := []string{"all.example ", "example.org anna", "example.org jean-luc", "example.org o'hara", "example.org tim"}
	for _, c := range []struct {
		address    string
		null       bool
		delimiters string
		want       bool
	}{
		{"tim@example.org", false, "", true}, {"TIM@EXAMPLE.ORG", false, "", true}, {"eve@example.org", false, "+", false},
		{"tim+x@example.org", false, "+", true}, {"tim+x+y@example.org", false, "+", true}, {"tim+x@example.org", false, "", false},
		{"tim-x@example.org", false, "+", false}, {"tim-x=y.example@example.org", false, "+-", true}, {"jean-luc@example.org", false, "+-", true},
		{"jean@example.org", false, "+-", false}, {"+tim@example.org", false, "+", false}, {"o'hara+1@example.org", false, "+", true},
		{"postmaster@example.org", false, "", true}, {"Postmaster@example.org", true, "", true},
		{"prvs=1234abc=tim@example.org", true, "", true}, {"prvs=1234abc=tim@example.org", false, "", false}, {"prvs=1234abc=eve@example.org", true, "", false},
		{"prvs=tim@example.org", true, "", false}, {"SRS0=abc=12=x.example=u@example.org", true, "", true}, {"SRS0=abc=12=x.example=u@example.org", false, "", false},
		{"srs1+abc@example.org", true, "", true}, {"eve@example.org", true, "", false}, {"tim@example.org", true, "", true},
	} {
		q := Query{Address: c.address, Domain: "example.org", Null: c.null, Delimiters: c.delimiters}
		if got := Listed(list, &q); got != c.want {
			t.Errorf("%+v: %v", q, got)
		}
	}
	if !Listed(list, &Query{Address: "whoever@all.example", Domain: "all.example"}) || Listed(list, &Query{Address: "tim@example.com", Domain: "example.com"}) {
		t.Error("domains are mixed up")
	}
	if e := Entry("Tim.Ö", "example.org"); e != "example.org tim.Ö" || Address(e) != "tim.Ö@example.org" || Address("all.example ") != "@all.example" {
		t.Error(e)
	}
	for domain, want := range map[string]bool{"example.org": true, "all.example": true, "example.or": false, "example.orgs": false, "org": false, "z.example": false} {
		if Covers(list, domain) != want {
			t.Errorf("Covers %s", domain)
		}
	}
}
