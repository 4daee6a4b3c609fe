package apigateway

import "time"

type verifier struct{}

func newVerifier(keys []KeyPair, region string, now func() time.Time) *verifier { return &verifier{} }
