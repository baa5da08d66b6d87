// The Go client against a server with no node: protobuf, informers, apply, paging, discovery, dynamic objects.
//
// Usage: KUBECONFIG=FILE clients. Says "ok" for each topic, and stops at the first that fails.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"
)

const namespace = "go-client"

var ctx, stop = context.WithTimeout(context.Background(), 2*time.Minute)

func must[T any](value T, err error) T {
	check(err == nil, "%v", err)
	return value
}

func check(holds bool, format string, args ...any) {
	if !holds {
		fmt.Fprintf(os.Stderr, "failed: "+format+"\n", args...)
		os.Exit(1)
	}
}

func main() {
	defer stop()
	config := must(clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG")))
	plain := must(dynamic.NewForConfig(config))
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client := must(kubernetes.NewForConfig(config))
	named := metav1.ObjectMeta{Name: namespace}
	must(client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: named}, metav1.CreateOptions{}))
	topics := []struct {
		name string
		run  func(*kubernetes.Clientset, dynamic.Interface)
	}{
		{"objects", objects}, {"apply", apply}, {"watch", watching}, {"informer", informer}, {"pages", pages},
		{"workloads", workloads}, {"reviews", reviews}, {"discovery", discovery}, {"dynamic", custom},
	}
	for _, topic := range topics {
		topic.run(client, plain)
		fmt.Println("ok", topic.name)
	}
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "go"}}, Data: data}
}

func objects(client *kubernetes.Clientset, _ dynamic.Interface) {
	maps := client.CoreV1().ConfigMaps(namespace)
	made := must(maps.Create(ctx, configMap("a", map[string]string{"k": "ä\n"}), metav1.CreateOptions{}))
	check(made.UID != "" && made.Data["k"] == "ä\n", "created %v", made)
	stale := made.DeepCopy()
	made.Data["k"] = "2"
	made = must(maps.Update(ctx, made, metav1.UpdateOptions{}))
	_, err := maps.Update(ctx, stale, metav1.UpdateOptions{})
	check(apierrors.IsConflict(err), "a stale update: %v", err)
	_, err = maps.Create(ctx, configMap("a", nil), metav1.CreateOptions{})
	check(apierrors.IsAlreadyExists(err), "a name that is taken: %v", err)
	_, err = maps.Create(ctx, configMap("Not_Good", nil), metav1.CreateOptions{})
	check(apierrors.IsInvalid(err), "a bad name: %v", err)
	patched := must(maps.Patch(ctx, "a", types.StrategicMergePatchType, []byte(`{"data":{"k":null,"l":"3"}}`), metav1.PatchOptions{}))
	check(len(patched.Data) == 1 && patched.Data["l"] == "3", "patched %v", patched.Data)
	check(maps.Delete(ctx, "a", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &patched.UID}}) == nil, "deleted")
	_, err = maps.Get(ctx, "a", metav1.GetOptions{})
	check(apierrors.IsNotFound(err), "it is gone: %v", err)
}

func apply(client *kubernetes.Clientset, _ dynamic.Interface) {
	maps := client.CoreV1().ConfigMaps(namespace)
	config := func(value string) *coreapply.ConfigMapApplyConfiguration {
		return coreapply.ConfigMap("applied", namespace).WithData(map[string]string{"k": value})
	}
	must(maps.Apply(ctx, config("1"), metav1.ApplyOptions{FieldManager: "one"}))
	_, err := maps.Apply(ctx, config("2"), metav1.ApplyOptions{FieldManager: "two"})
	check(apierrors.IsConflict(err), "another manager's field: %v", err)
	forced := must(maps.Apply(ctx, config("2"), metav1.ApplyOptions{FieldManager: "two", Force: true}))
	check(forced.Data["k"] == "2" && len(forced.ManagedFields) == 1, "forced %v", forced.ManagedFields)
}

func watching(client *kubernetes.Clientset, _ dynamic.Interface) {
	maps := client.CoreV1().ConfigMaps(namespace)
	list := must(maps.List(ctx, metav1.ListOptions{}))
	events := must(maps.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion, LabelSelector: "app=go"}))
	defer events.Stop()
	must(maps.Create(ctx, configMap("w", nil), metav1.CreateOptions{}))
	must(maps.Patch(ctx, "w", types.MergePatchType, []byte(`{"metadata":{"labels":{"app":null}}}`), metav1.PatchOptions{}))
	for _, wanted := range []watch.EventType{watch.Added, watch.Deleted} {
		event := <-events.ResultChan()
		check(event.Type == wanted && event.Object.(*corev1.ConfigMap).Name == "w", "%v, wanted %v", event, wanted)
	}
}

func informer(client *kubernetes.Clientset, _ dynamic.Interface) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	maps := factory.Core().V1().ConfigMaps()
	seen := make(chan string, 100)
	must(maps.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { seen <- o.(*corev1.ConfigMap).Name },
	}))
	factory.Start(ctx.Done())
	check(cache.WaitForCacheSync(ctx.Done(), maps.Informer().HasSynced), "it never synced")
	must(client.CoreV1().ConfigMaps(namespace).Create(ctx, configMap("informed", nil), metav1.CreateOptions{}))
	for name := range seen {
		if name == "informed" {
			return
		}
	}
}

func pages(client *kubernetes.Clientset, _ dynamic.Interface) {
	maps := client.CoreV1().ConfigMaps(namespace)
	for i := range 7 {
		must(maps.Create(ctx, configMap(fmt.Sprintf("page-%d", i), nil), metav1.CreateOptions{}))
	}
	var names []string
	options := metav1.ListOptions{Limit: 3, LabelSelector: "app=go"}
	for {
		list := must(maps.List(ctx, options))
		check(len(list.Items) <= 3, "%d of three", len(list.Items))
		for _, item := range list.Items {
			names = append(names, item.Name)
		}
		if options.Continue = list.Continue; options.Continue == "" {
			break
		}
	}
	check(len(names) == 8, "all pages: %v", names)
	one := must(maps.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=page-3"}))
	check(len(one.Items) == 1, "by name: %v", one.Items)
}

func workloads(client *kubernetes.Clientset, _ dynamic.Interface) {
	labels := map[string]string{"app": "web"}
	replicas := int32(2)
	made := must(client.AppsV1().Deployments(namespace).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			},
		},
	}, metav1.CreateOptions{}))
	check(made.Spec.Template.Spec.RestartPolicy == corev1.RestartPolicyAlways, "defaults: %v", made.Spec)
	// The controller writes the new deployment's status meanwhile.
	deployments := client.AppsV1().Deployments(namespace)
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		scale := must(deployments.GetScale(ctx, "web", metav1.GetOptions{}))
		scale.Spec.Replicas = 3
		_, err := deployments.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{})
		return err
	})
	check(err == nil, "scale: %v", err)
	pods := must(client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{LabelSelector: "app=web"}))
	defer pods.Stop()
	names := map[string]bool{}
	for event := range pods.ResultChan() {
		names[event.Object.(*corev1.Pod).Name] = true
		if len(names) == 3 {
			return
		}
	}
	check(false, "%d of three pods", len(names))
}

func reviews(client *kubernetes.Clientset, _ dynamic.Interface) {
	review := must(client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authzv1.SelfSubjectAccessReview{
		Spec: authzv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authzv1.ResourceAttributes{Verb: "delete", Resource: "nodes"}},
	}, metav1.CreateOptions{}))
	check(review.Status.Allowed, "the administrator may: %v", review.Status)
	account := metav1.ObjectMeta{Name: "robot"}
	must(client.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: account}, metav1.CreateOptions{}))
	token := must(client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, "robot", &authnv1.TokenRequest{}, metav1.CreateOptions{}))
	known := must(client.AuthenticationV1().TokenReviews().Create(ctx, &authnv1.TokenReview{
		Spec: authnv1.TokenReviewSpec{Token: token.Status.Token},
	}, metav1.CreateOptions{}))
	check(known.Status.User.Username == "system:serviceaccount:"+namespace+":robot", "whose token: %v", known.Status)
}

func discovery(client *kubernetes.Clientset, _ dynamic.Interface) {
	check(must(client.Discovery().ServerVersion()).Minor == "36", "the version")
	groups, lists, err := client.Discovery().ServerGroupsAndResources()
	check(err == nil && len(groups) > 15 && len(lists) > 20, "%d groups, %d lists, %v", len(groups), len(lists), err)
	schema := must(client.Discovery().OpenAPISchema())
	check(len(schema.GetDefinitions().GetAdditionalProperties()) > 300, "OpenAPI v2")
	paths := must(client.Discovery().OpenAPIV3().Paths())
	check(paths["apis/apps/v1"] != nil, "OpenAPI v3")
}

func custom(_ *kubernetes.Clientset, client dynamic.Interface) {
	definitions := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	must(definitions.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "gadgets.go.example.com"},
		"spec": map[string]any{
			"group": "go.example.com", "scope": "Namespaced",
			"names": map[string]any{"plural": "gadgets", "kind": "Gadget"},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object",
					"properties": map[string]any{"size": map[string]any{"type": "integer", "default": int64(7)}}}}}},
		},
	}}, metav1.CreateOptions{}))
	gadgets := client.Resource(schema.GroupVersionResource{Group: "go.example.com", Version: "v1", Resource: "gadgets"}).Namespace(namespace)
	gadget := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "go.example.com/v1", "kind": "Gadget", "metadata": map[string]any{"name": "g"},
	}}
	for {
		made, err := gadgets.Create(ctx, gadget, metav1.CreateOptions{})
		if apierrors.IsNotFound(err) && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		check(err == nil && made.Object["size"] == int64(7), "%v %v", made, err)
		return
	}
}
