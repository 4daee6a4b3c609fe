package apigateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"
)

// invoker signs invocations of functions of AWS Lambda.
type invoker struct {
	signer *v4.Signer
	now    func() time.Time

	mu          sync.Mutex
	credentials aws.CredentialsProvider // nil until the first function is called
}

func newInvoker(credentials aws.CredentialsProvider, now func() time.Time) *invoker {
	return &invoker{signer: v4.NewSigner(), now: now, credentials: credentials}
}

// sign signs an invocation.
func (i *invoker) sign(ctx context.Context, r *http.Request, body []byte, region string) error {
	provider, err := i.provider(ctx, region)
	if err != nil {
		return err
	}
	credentials, err := provider.Retrieve(ctx)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	return i.signer.SignHTTP(ctx, credentials, r, hex.EncodeToString(sum[:]), "lambda", region, i.now())
}

// provider returns where credentials come from. Loading the default chain reads files and the
// environment; a failure is tried again with the next call.
func (i *invoker) provider(ctx context.Context, region string) (aws.CredentialsProvider, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.credentials == nil {
		c, err := config.LoadDefaultConfig(ctx, config.WithRegion(region))
		if err != nil {
			return nil, err
		}
		i.credentials = c.Credentials
	}
	return i.credentials, nil
}

// invokeURL returns the URL that invokes a function by name.
func (l *Lambda) invokeURL() string {
	endpoint := strings.TrimSuffix(l.Endpoint, "/")
	if endpoint == "" {
		endpoint = "https://lambda." + l.region() + ".amazonaws.com"
		if strings.HasPrefix(l.region(), "cn-") {
			endpoint += ".cn"
		}
	}
	u := endpoint + "/2015-03-31/functions/" + strings.ReplaceAll(url.PathEscape(l.Function), ":", "%3A") + "/invocations"
	if l.Qualifier != "" {
		u += "?Qualifier=" + url.QueryEscape(l.Qualifier)
	}
	return u
}
