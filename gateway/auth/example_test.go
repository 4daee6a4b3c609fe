package auth_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/netip"

	"github.com/millrace/millrace/gateway/auth"
)

// A guard with an API key that binds its holder to one vehicle.
func ExampleGuard_Check() {
	guard, err := auth.New(auth.Config{
		APIKeys: []auth.APIKey{{Name: "bus-42", Key: "a-random-text-of-some-length", Claims: map[string]string{"vehicle": "42"}}},
		Token:   auth.Token{Query: "token"},
	}, auth.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, url := range []string{"/vehicles?token=a-random-text-of-some-length", "/vehicles?token=guessed", "/vehicles"} {
		r := httptest.NewRequest("GET", url, nil)
		id, err := guard.Check(context.Background(), r, netip.MustParseAddr("203.0.113.7"))
		if denied, ok := errors.AsType[*auth.Denied](err); ok {
			fmt.Println(denied.Status, denied.Reason)
			continue
		}
		vehicles, _ := id.Claim("vehicle")
		fmt.Println(id.Key, vehicles)
	}
	// Output:
	// key:bus-42 [42]
	// 401 the token is wrong
	// 401 a token is needed: the header Authorization: Bearer TOKEN, or the parameter token
}
