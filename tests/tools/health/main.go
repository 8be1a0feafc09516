// What GitOps tools make of an object: reads it as JSON and prints its health.
//
//	health kstatus          as kstatus sees it, which Flux asks: Current, InProgress, Failed, ...
//	health argocd SCRIPT    by a health check in Lua, run as Argo CD does: status and message
package main

import (
	"fmt"
	"io"
	"os"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "health:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	object := &unstructured.Unstructured{}
	if err := object.UnmarshalJSON(text); err != nil {
		return err
	}
	switch {
	case len(args) == 1 && args[0] == "kstatus":
		result, err := status.Compute(object)
		if err != nil {
			return err
		}
		fmt.Println(result.Status)
		return nil
	case len(args) == 2 && args[0] == "argocd":
		return argocd(args[1], object.Object)
	}
	return fmt.Errorf("usage: health kstatus | health argocd SCRIPT")
}

func argocd(script string, object map[string]any) error {
	// Argo CD opens these libraries and no others.
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{
		lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable,
	} {
		state.Push(state.NewFunction(open))
		state.Push(lua.LString(name))
		state.Call(1, 0)
	}
	state.SetGlobal("obj", value(state, object))
	if err := state.DoFile(script); err != nil {
		return err
	}
	health, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return fmt.Errorf("the script returned %s", state.Get(-1).Type())
	}
	fmt.Println(health.RawGetString("status"))
	fmt.Println(health.RawGetString("message"))
	return nil
}

func value(state *lua.LState, json any) lua.LValue {
	switch json := json.(type) {
	case map[string]any:
		table := state.NewTable()
		for name, element := range json {
			table.RawSetString(name, value(state, element))
		}
		return table
	case []any:
		table := state.NewTable()
		for _, element := range json {
			table.Append(value(state, element))
		}
		return table
	case string:
		return lua.LString(json)
	case int64:
		return lua.LNumber(json)
	case float64:
		return lua.LNumber(json)
	case bool:
		return lua.LBool(json)
	}
	return lua.LNil
}
